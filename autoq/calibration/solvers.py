"""Choose the parameters of one operand's quantizers.

Every scheme can be solved by its range (``BaseQuantizer.from_range``); those that need more have a solver of their own
in ``OperandSolver._SOLVERS``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, TypeVar, cast

import torch
from torch import Tensor

from autoq.calibration.capture import OperandSample
from autoq.calibration.instance_groups import GroupFit
from autoq.calibration.log_search import NUMERATORS, SCALES, log_errors
from autoq.calibration.range_search import search_range
from autoq.calibration.settings import CalibrationSettings
from autoq.calibration.tables import LinearTable, LogTable
from autoq.calibration.uniform_search import search_uniform, uniform_errors
from autoq.errors import CalibrationError
from autoq.graph.sites import Operand
from autoq.quantizers import BaseQuantizer, InstanceGroupQuantizer, create_quantizer, quantizer_class
from autoq.quantizers.granularity import group_ids
from autoq.recipe import OperandConfig

_LOG_BINS_FACTOR = 4
"""A histogram over forty octaves needs more bins for the few that matter; a value on the wrong side of a logarithmic
threshold, which is not half-way, costs more too."""
_T = TypeVar("_T")
_THOROUGH_ROWS = 16
"""Up to here, as activations have them, a wide search costs next to nothing."""


@dataclass(frozen=True)
class _Rows:
    """An operand in rows that have parameters of their own, and the way back.

    Attributes:
        values: of shape (rows, n).
        lower: observed bounds, of shape (rows,).
        upper: observed bounds, of shape (rows,).
        shape: of the parameters.
    """

    values: Tensor
    lower: Tensor
    upper: Tensor
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """Memory of the values, if they had to be copied."""
        return self.values.nbytes


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

    @property
    def nbytes(self) -> int:
        """Memory that is kept for the next option, about."""
        return sum(getattr(value, "nbytes", 0) for value in self._cache.values())

    def solve(self, config: OperandConfig) -> BaseQuantizer:
        """The quantizer at one option; errors as in :func:`solve`."""
        quantizer_class(config.scheme)
        with torch.no_grad():
            return self._SOLVERS.get(config.scheme, OperandSolver._solve_range)(self, config)

    def _solve_range(self, config: OperandConfig) -> BaseQuantizer:
        """One range per row: observed, cut at a percentile, or of least squared error."""
        rows = self._rows(config)
        lower, upper = rows.lower, rows.upper
        if self._settings.observer == "percentile":
            lower, upper = _percentile(rows.values, self._settings.percentile)
        elif self._settings.observer == "mse" and config.scheme == "uniform":
            lower, upper = self._search_uniform(config, rows)
        elif self._settings.observer == "mse":
            lower, upper = search_range(rows.values, config, lower, upper, self._settings.bins)
        return quantizer_class(config.scheme).from_range(
            config, self._operand.layout, lower.view(rows.shape), upper.view(rows.shape)
        )

    def _search_uniform(self, config: OperandConfig, rows: _Rows) -> tuple[Tensor, Tensor]:
        def table() -> LinearTable:
            key = ("linear", rows.shape)
            return self._kept(key, lambda: LinearTable.of_rows(rows.values, self._settings.bins))

        return search_uniform(
            uniform_errors(rows.values, table, config.bits),
            config.bits,
            rows.lower,
            rows.upper,
            symmetric=config.symmetric,
            thorough=len(rows.values) <= _THOROUGH_ROWS,
        )

    def _solve_logarithmic(self, config: OperandConfig) -> BaseQuantizer:
        """Scale and, for AdaLog, base of least squared error; the scale of a softmax output is one (AdaLog, §3.2)."""
        rows = self._rows(config)
        lower, upper = rows.lower, rows.upper
        scales: tuple[float, ...] = (1.0,)
        if self._operand.producer == "softmax":
            lower, upper = torch.zeros_like(lower), torch.ones_like(upper)
        elif self._settings.observer == "percentile":
            _, upper = _percentile(rows.values, self._settings.percentile)
        elif self._settings.observer == "mse":
            scales = SCALES

        def quantizer(option: OperandConfig, greatest: Tensor) -> BaseQuantizer:
            bounds = (bound.view(rows.shape) for bound in (lower, greatest))
            return quantizer_class(option.scheme).from_range(option, self._operand.layout, *bounds)

        start = quantizer(config, upper).qparams()
        shift = start["shift"].flatten()[0]
        # Bounds are scaled above the shift, so that the lower one stays where the shift has put it.
        candidates = start["scale"].view(-1, 1) * torch.tensor(scales, device=upper.device)
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

    def _log_errors(self, config: OperandConfig, rows: _Rows, shift: Tensor, candidates: Tensor) -> Tensor:
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
        if settings.observer == "mse":
            bounds = fit.least_error_bounds(config.bits, config.groups)
        else:
            key = ("percentiles", config.groups)
            percentile = settings.percentile if settings.observer == "percentile" else 100.0
            bounds = self._kept(key, lambda: fit.percentile_bounds(config.groups, percentile))
        return InstanceGroupQuantizer.from_range(config, operand.layout, *bounds)

    _SOLVERS: ClassVar[dict[str, Callable[[OperandSolver, OperandConfig], BaseQuantizer]]] = {
        "log2": _solve_logarithmic,
        "log_sqrt2": _solve_logarithmic,
        "adalog": _solve_logarithmic,
        "instance_groups": _solve_instance_groups,
    }

    def _rows(self, config: OperandConfig) -> _Rows:
        key = ("rows", config.granularity, config.groups)
        return self._kept(key, lambda: _rows(self._operand, config, self._sample))

    def _kept(self, key: tuple[object, ...], make: Callable[[], _T]) -> _T:
        if key not in self._cache:
            self._cache[key] = make()
        return cast(_T, self._cache[key])


def _sample_of_weight(weight: Tensor) -> OperandSample:
    """A weight is its own sample; its bounds are found per row."""
    return OperandSample(weight.float(), weight.float(), weight.float(), None)


def _rows(operand: Operand, config: OperandConfig, sample: OperandSample) -> _Rows:
    """Bring the axes along which parameters vary to the front."""
    layout, values = operand.layout, sample.values
    kept = tuple(axis % layout.ndim for axis in layout.kept_axes(config))
    shape = layout.parameter_shape(values.shape, config)
    if config.granularity == "group" and layout.group_axis is not None:
        return _grouped_rows(operand, sample, shape)
    order = [*kept, *(axis for axis in range(layout.ndim) if axis not in kept)]
    count = math.prod(values.shape[axis] for axis in kept)
    others = [axis for axis in range(layout.ndim) if axis not in kept]
    lower, upper = sample.lower.amin(others), sample.upper.amax(others)
    return _Rows(values.permute(order).reshape(count, -1), lower.reshape(count), upper.reshape(count), shape)


def _grouped_rows(operand: Operand, sample: OperandSample, shape: tuple[int, ...]) -> _Rows:
    """Static groups: consecutive channels side by side; shorter groups are padded with their own values."""
    layout, values = operand.layout, sample.values
    assert layout.group_axis is not None  # noqa: S101 - checked by the caller
    axis = layout.group_axis % layout.ndim
    groups = shape[axis]
    ids = group_ids(values.shape[axis], groups, values.device)
    length = int(torch.bincount(ids).max())
    members = torch.stack([_padded((ids == group).nonzero().flatten(), length) for group in range(groups)])
    gathered = values.index_select(axis, members.flatten())
    gathered = gathered.reshape(*gathered.shape[:axis], groups, length, *gathered.shape[axis + 1 :])
    outer = layout.channel_axis % layout.ndim
    first = [outer + (outer > axis)] if operand.is_weight else []
    order = [*first, axis, *(a for a in range(gathered.ndim) if a not in (*first, axis))]
    rows = gathered.permute(order).reshape(-1, gathered.numel() // (groups * (values.shape[outer] if first else 1)))
    return _Rows(rows, rows.amin(1), rows.amax(1), shape)


def _padded(index: Tensor, length: int) -> Tensor:
    return torch.cat([index, index[-1:].expand(length - len(index))])


def _percentile(values: Tensor, percent: float) -> tuple[Tensor, Tensor]:
    """Per row of ``values``, the bounds that leave out (100 − percent) % at each end."""
    length = values.shape[1]
    rank = max(1, min(length, round(length * percent / 100)))
    return values.kthvalue(length - rank + 1, dim=1).values, values.kthvalue(rank, dim=1).values
