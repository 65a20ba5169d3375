"""Choose the parameters of one operand's quantizers.

Every scheme can be solved by its range (``BaseQuantizer.from_range``); those that need more have a solver of their own
in ``OperandSolver._SOLVERS``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar, TypeVar, cast

import torch
from torch import Tensor

from autoq.calibration.capture import OperandSample
from autoq.calibration.observers.ranges import (
    BEST_OF_PERCENTILES,
    SHRINKS,
    Bounds,
    SortedRows,
    least_error_range,
    quantile_bounds,
    shrunk_ranges,
)
from autoq.calibration.rows import Rows, rows_of
from autoq.calibration.settings import CalibrationSettings
from autoq.calibration.solvers.instance_groups import GroupFit
from autoq.calibration.solvers.log_search import NUMERATORS, SCALES, log_errors
from autoq.calibration.solvers.power_of_two_search import search_factors
from autoq.calibration.solvers.range_search import search_range
from autoq.calibration.solvers.tables import LinearTable, LogTable
from autoq.calibration.solvers.twin_search import MOST_BITS, search_twin
from autoq.calibration.solvers.uniform_search import search_uniform, uniform_errors
from autoq.errors import CalibrationError
from autoq.graph.sites import Operand
from autoq.quantizers import (
    BaseQuantizer,
    InstanceGroupQuantizer,
    LogIntSoftmaxQuantizer,
    PowerOfTwoFactorQuantizer,
    TwinUniformQuantizer,
    create_quantizer,
    quantizer_class,
)
from autoq.recipe import OperandConfig

_LOG_BINS_FACTOR = 4
"""A histogram over forty octaves needs more bins for the few that matter; a value on the wrong side of a logarithmic
threshold, which is not half-way, costs more too."""
_T = TypeVar("_T")
_THOROUGH_ROWS = 16
"""Up to here, as activations have them, a wide search costs next to nothing."""
_SEARCHING = ("mse", "fpcs")
"""Observers that search for least squared error; ``fpcs`` has a search of its own for layers, not for one operand."""


def solve(
    operand: Operand, config: OperandConfig, data: OperandSample | Tensor, settings: CalibrationSettings
) -> BaseQuantizer:
    """The quantizer of one operand at one option.

    Args:
        operand: the operand.
        config: the option.
        data: the weight, or a sample of the activation.
        settings: how to choose.

    Raises:
        RecipeError: there is no such scheme.
        CalibrationError: the option does not fit the operand.
    """
    return OperandSolver(operand, data, settings).solve(config)


class OperandSolver:
    """Solves one operand at many options, which share what depends on the values alone."""

    def __init__(self, operand: Operand, data: OperandSample | Tensor, settings: CalibrationSettings) -> None:
        """Nothing is computed yet; for arguments see :func:`solve`."""
        self._operand = operand
        self._sample = _sample_of_weight(data) if isinstance(data, Tensor) else data
        self._settings = settings
        self._cache: dict[tuple[object, ...], object] = {}

    def solve(self, config: OperandConfig) -> BaseQuantizer:
        """The quantizer at one option; errors as in :func:`solve`."""
        quantizer_class(config.scheme)
        with torch.no_grad():
            return self._SOLVERS.get(config.scheme, OperandSolver._solve_range)(self, config)

    def _solve_range(self, config: OperandConfig) -> BaseQuantizer:
        """One range per row: what the observer saw, or the range of least squared error."""
        rows = self._rows(config)
        lower, upper = rows.lower, rows.upper
        if self._settings.observer in _SEARCHING and config.scheme == "uniform":
            lower, upper = self._search_uniform(config, rows)
        elif self._settings.observer in _SEARCHING:
            lower, upper = search_range(rows.values, config, lower, upper, self._settings.bins)
        elif self._settings.observer == "omse":
            lower, upper = self._best_of(config, rows, shrunk_ranges(lower, upper))
        elif self._settings.observer == "best_percentile":
            lower, upper = self._best_of(config, rows, self._percentile_candidates(rows))
        return quantizer_class(config.scheme).from_range(
            config, self._operand.layout, lower.view(rows.shape), upper.view(rows.shape)
        )

    def _linear_table(self, rows: Rows) -> LinearTable:
        return self._kept(("linear", rows.shape), lambda: LinearTable.of_rows(rows.values, self._settings.bins))

    def _search_uniform(self, config: OperandConfig, rows: Rows) -> tuple[Tensor, Tensor]:
        return search_uniform(
            uniform_errors(rows.values, lambda: self._linear_table(rows), config.bits),
            config.bits,
            rows.lower,
            rows.upper,
            symmetric=config.symmetric,
            thorough=len(rows.values) <= _THOROUGH_ROWS,
        )

    def _best_of(self, config: OperandConfig, rows: Rows, candidates: Bounds) -> Bounds:
        def sorted_rows() -> SortedRows:
            return self._kept(("sorted", rows.shape), lambda: SortedRows.of_rows(rows.values))

        return least_error_range(rows.values, config, candidates, sorted_rows)

    def _percentile_candidates(self, rows: Rows) -> Bounds:
        key = ("best_percentile", rows.shape)
        return self._kept(key, lambda: quantile_bounds(rows.values, BEST_OF_PERCENTILES))

    def _solve_logarithmic(self, config: OperandConfig) -> BaseQuantizer:
        """Scale and, for AdaLog, base of least squared error, or the scale of a range.

        After softmax it is one for AdaLog (its §3.2) and for base 2 (FQ-ViT, §3.4); RepQ-ViT's base √2 observes it.
        """
        rows = self._rows(config)
        lower, upper = rows.lower, rows.upper
        scales: tuple[float, ...] = (1.0,)
        uppers = upper.unsqueeze(0)
        if self._operand.producer == "softmax":
            lower = torch.zeros_like(lower)
        if self._operand.producer == "softmax" and config.scheme != "log_sqrt2":
            uppers = torch.ones_like(uppers)
        elif self._settings.observer in _SEARCHING:
            scales = SCALES
        elif self._settings.observer == "omse":
            scales = SHRINKS
        elif self._settings.observer == "best_percentile":
            _, uppers = self._percentile_candidates(rows)

        def quantizer(option: OperandConfig, greatest: Tensor) -> BaseQuantizer:
            bounds = (bound.view(rows.shape) for bound in (lower, greatest))
            return quantizer_class(option.scheme).from_range(option, self._operand.layout, *bounds)

        starts = [quantizer(config, greatest).qparams() for greatest in uppers]
        shift = starts[0]["shift"].flatten()[0]
        # Bounds are scaled above the shift, so that the lower one stays where the shift has put it.
        tops = torch.stack([start["scale"].flatten() for start in starts], 1)
        candidates = (tops.unsqueeze(2) * torch.tensor(scales, device=upper.device)).flatten(1)
        key = ("log", config.scheme, config.bits, config.overflow, rows.shape)
        errors, best = self._kept(key, lambda: self._log_errors(config, rows, shift, candidates).min(2))
        solved = config
        base = 0
        if config.scheme == "adalog":
            fitted = NUMERATORS[int(errors.sum(1).argmin())]
            solved = config.model_copy(update={"log_base_numerator": config.log_base_numerator or fitted})
            base = NUMERATORS.index(solved.log_base_numerator)
        scale = candidates.gather(1, best[base].unsqueeze(1)).squeeze(1)
        return create_quantizer(config, self._operand.layout, quantizer(solved, scale - shift).qparams())

    def _log_errors(self, config: OperandConfig, rows: Rows, shift: Tensor, candidates: Tensor) -> Tensor:
        def make() -> LogTable:
            return LogTable.of_rows((rows.values + shift).clamp(min=0), _LOG_BINS_FACTOR * self._settings.bins)

        return log_errors(self._kept(("log", rows.shape), make), candidates, config)

    def _solve_instance_groups(self, config: OperandConfig) -> BaseQuantizer:
        """Group bounds of least squared error, or by IGQ-ViT's alternation; see ``GroupFit``."""
        operand, settings = self._operand, self._settings
        if self._sample.entry_bounds is None:
            raise CalibrationError(
                f"operand {operand.name!r} of shape {operand.shape} cannot have instance-aware groups"
            )
        fit = self._kept(("groups",), lambda: GroupFit(self._sample, operand))
        if settings.observer in ("min_max", "ema", "percentile"):
            key = ("percentiles", config.groups)
            percentile = settings.percentile if settings.observer == "percentile" else 100.0
            bounds = self._kept(key, lambda: fit.percentile_bounds(config.groups, percentile))
        else:
            bounds = fit.least_error_bounds(config.bits, config.groups)
        return InstanceGroupQuantizer.from_range(config, operand.layout, *bounds)

    def _solve_log_int_softmax(self, config: OperandConfig) -> BaseQuantizer:
        """Nothing depends on the values."""
        bound = self._sample.values.new_zeros(())
        return LogIntSoftmaxQuantizer.from_range(config, self._operand.layout, bound, bound)

    def _solve_twin_uniform(self, config: OperandConfig) -> BaseQuantizer:
        """Scale and shift of least squared error (see ``search_twin``), or of a range."""
        rows = self._rows(config)
        layout, bounds = self._operand.layout, (bound.view(rows.shape) for bound in (rows.lower, rows.upper))
        if config.bits > MOST_BITS:
            return TwinUniformQuantizer.from_range(config, layout, *bounds)
        if self._settings.observer not in (*_SEARCHING, "omse"):
            return self._solve_range(config)
        fine_sign = -1 if bool((rows.lower < 0).any()) else 1
        scale, shift_bits = search_twin(rows.values, config.bits, fine_sign)
        return TwinUniformQuantizer.with_scale(config, layout, scale.view(rows.shape), shift_bits, fine_sign)

    def _solve_power_of_two_factor(self, config: OperandConfig) -> BaseQuantizer:
        """A range for the layer, as the observer has it or of least squared error, and a factor for each channel."""
        rows, channels = (
            self._rows(config.model_copy(update={"granularity": granularity, "groups": 1}))
            for granularity in ("tensor", "channel")
        )
        lower, upper = rows.lower, rows.upper
        if self._settings.observer in (*_SEARCHING, "omse"):
            lower, upper = (bound.flatten() for bound in shrunk_ranges(lower, upper))
        elif self._settings.observer == "best_percentile":
            lower, upper = (bound.flatten() for bound in self._percentile_candidates(rows))
        errors = uniform_errors(channels.values, lambda: self._linear_table(channels), config.bits)
        lower, upper, exponent = search_factors(channels.values, errors, lower, upper, config.bits)
        plain = PowerOfTwoFactorQuantizer.from_range(config, self._operand.layout, lower, upper).qparams()
        return create_quantizer(config, self._operand.layout, plain | {"exponent": exponent.view(channels.shape)})

    _SOLVERS: ClassVar[dict[str, Callable[[OperandSolver, OperandConfig], BaseQuantizer]]] = {
        "log2": _solve_logarithmic,
        "log_sqrt2": _solve_logarithmic,
        "adalog": _solve_logarithmic,
        "instance_groups": _solve_instance_groups,
        "log_int_softmax": _solve_log_int_softmax,
        "twin_uniform": _solve_twin_uniform,
        "power_of_two_factor": _solve_power_of_two_factor,
    }

    def _rows(self, config: OperandConfig) -> Rows:
        key = ("rows", config.granularity, config.groups)
        return self._kept(key, lambda: rows_of(self._operand, config, self._sample, self._settings))

    def _kept(self, key: tuple[object, ...], make: Callable[[], _T]) -> _T:
        if key not in self._cache:
            self._cache[key] = make()
        return cast(_T, self._cache[key])


def _sample_of_weight(weight: Tensor) -> OperandSample:
    """A weight is its own sample; its bounds are found per row."""
    return OperandSample(weight.float(), weight.float(), weight.float(), None)
