"""The parameters of one operand's quantizer by the progressive search, for whatever squared error it is given."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TypeVar, cast

import torch
from torch import Tensor

from autoq.calibration.fpcs.layer_error import QuadraticError, affine_loss
from autoq.calibration.fpcs.scaled_loss import log_unit, scaled_loss, screening_losses
from autoq.calibration.fpcs.search import (
    Pair,
    Problem,
    affine_grid,
    base_grid,
    best_bases,
    log_grid,
    progressive_search,
)
from autoq.calibration.fpcs.twin_search import twin_problem
from autoq.calibration.settings import CalibrationSettings
from autoq.calibration.solvers.logarithmic import log_class
from autoq.calibration.solvers.twin_uniform import twin_class
from autoq.graph.sites import Operand
from autoq.quantizers import BaseQuantizer, create_quantizer, quantizer_class
from autoq.recipe import OperandConfig

_T = TypeVar("_T")
_BASES_GONE_ON_WITH = 8
"""By a search whose incumbent was searched: the other operand has changed a little since."""


def is_searched(config: OperandConfig) -> bool:
    """Tell whether a configuration's parameters are found by the progressive search."""
    is_served = quantizer_class(config.scheme).output_search is not None
    return is_served and config.granularity in ("tensor", "channel", "head")


class ParameterSearch:
    """Searches one operand's parameters at many configurations, which share its range and quantiles."""

    def __init__(self, operand: Operand, full: Tensor, settings: CalibrationSettings) -> None:
        """Search nothing yet.

        Args:
            operand: the operand.
            full: it in full precision, over all calibration images.
            settings: of the search.
        """
        self._operand, self._full = operand, full
        self._fpcs, self._seed, self._include_zero = settings.fpcs, settings.seed, settings.include_zero
        self._cache: dict[tuple[object, ...], object] = {}

    def minimise(self, config: OperandConfig, error: QuadraticError, incumbent: BaseQuantizer | None) -> BaseQuantizer:
        """Search the parameters of least error; never worse than the incumbent if the settings ask for the best.

        Args:
            config: for which :func:`is_searched` holds.
            error: to minimise, its rows those that share parameters.
            incumbent: the quantizer to be beaten; None: that of the observed range.
        """
        searched = quantizer_class(config.scheme).output_search
        if searched == "scale_and_log_base":
            return self._minimise_logarithmic(config, error, incumbent)
        if searched == "scale_and_shift_bits":
            return self._minimise_twin(config, error, incumbent)
        observed = self.observed(config)
        problem = self.affine_problem(config, error, incumbent or observed)
        scale, zero_point, _ = self._progressive(problem, self._fpcs.kept, self._fpcs.steps)
        qparams = {"scale": scale, "zero_point": zero_point}
        shape = observed.qparams()["scale"].shape  # of more entries than the error has rows, where some are tied
        qparams = {name: each.expand(-1, shape.numel() // len(each)).reshape(shape) for name, each in qparams.items()}
        return create_quantizer(config, self._operand.layout, qparams)

    def affine_problem(self, config: OperandConfig, error: QuadraticError, incumbent: BaseQuantizer) -> Problem:
        """Set up the search of scale and zero point; entries of a range that make one row of the error are tied."""
        low, high = self._cached(("quantiles", config.granularity), lambda: self._quantiles(error.values))
        least, most = self._range(config)
        rows = len(error.values)
        grid = affine_grid(
            (low, least.reshape(rows, -1).amin(1)),
            (high, most.reshape(rows, -1).amax(1)),
            config.bits,
            self._fpcs,
            symmetric=config.symmetric,
            include_zero=self._include_zero,
            all_zero_points=self._operand.name == "input",
        )
        qparams = incumbent.qparams()
        start = (qparams["scale"].reshape(rows, -1).amax(1, True), qparams["zero_point"].reshape(rows, -1)[:, :1])
        binary = config.symmetric and config.bits == 1
        screened = error.screened(self._fpcs.screening, self._seed)
        screen = None if screened is None else affine_loss(screened, config.bits, binary=binary)
        return Problem(grid, start, affine_loss(error, config.bits, binary=binary), screen, None)

    def _minimise_logarithmic(
        self, config: OperandConfig, error: QuadraticError, incumbent: BaseQuantizer | None
    ) -> BaseQuantizer:
        """Search base and scale; the scale of a softmax output is one (AdaLog, §3.2), but for RepQ-ViT's base √2."""
        cls, observed = log_class(config.scheme), self.observed(config)
        qparams, rows = observed.qparams(), len(error.values)
        has_unit_scale = self._operand.producer == "softmax" and cls.has_unit_scale_after_softmax
        scale = torch.ones_like(qparams["scale"]) if has_unit_scale else qparams["scale"]
        bases = cls.log_base_numerators
        if cls.fitted_fields and config.log_base_numerator is not None:
            bases = (config.log_base_numerator,)
        if has_unit_scale and len(bases) == 1:
            numerator, relative = float(bases[0]), 1.0
        else:
            problem = self._log_problem(config, error, scale.reshape(rows, 1), bases, incumbent)
            kept = self._fpcs.kept if len(bases) == 1 else self._fpcs.log_kept
            steps = 1 if has_unit_scale else self._fpcs.steps
            found = self._progressive(problem, kept, steps)
            numerator, relative = float(found[0]), float(found[1])
        qparams |= {"scale": (scale.reshape(rows, 1) * relative).reshape(scale.shape)}
        qparams |= dict.fromkeys(cls.fitted_fields, torch.tensor(numerator))
        return create_quantizer(config, self._operand.layout, qparams)

    def _minimise_twin(
        self, config: OperandConfig, error: QuadraticError, incumbent: BaseQuantizer | None
    ) -> BaseQuantizer:
        """Search the coarse scale and how many binary places finer the fine one is (PTQ4ViT, §3.2)."""
        observed = self.observed(config)
        narrow = self._cached(("positive",), lambda: _positive_quantile(error.values, self._fpcs.quantile))
        problem = twin_problem(config, error, observed, incumbent, float(narrow), self._fpcs, self._seed)
        steps = self._fpcs.steps if self._fpcs.twin_scales == "searched" else 1
        shift_bits, relative, _ = self._progressive(problem, self._fpcs.log_kept, steps)
        qparams = observed.qparams()
        scale, fine_sign = qparams["scale"] * float(relative), int(qparams["fine_sign"])
        layout = self._operand.layout
        return twin_class(config.scheme).with_scale(config, layout, scale, float(shift_bits), fine_sign)

    def _progressive(self, problem: Problem, kept: int, steps: int) -> tuple[Tensor, Tensor, Tensor]:
        """Search a problem, with the result that the settings ask for."""
        return progressive_search(
            problem.loss,
            problem.grid,
            kept,
            steps,
            screen=problem.screen,
            coarse=problem.coarse,
            incumbent=problem.incumbent,
            of_last_step=self._fpcs.result == "last_step",
        )

    def _log_problem(
        self,
        config: OperandConfig,
        error: QuadraticError,
        scale: Tensor,
        bases: Sequence[int],
        incumbent: BaseQuantizer | None,
    ) -> Problem:
        """Set up the search of one of the ``bases`` and of a scale relative to ``scale`` (R, 1)."""
        is_first, incumbent = incumbent is None, incumbent or self.observed(config)
        shift = self.observed(config).qparams()["shift"].flatten()[0]
        shifted, device = error.shifted(shift), error.values.device
        unit = log_unit(config, device)
        loss = scaled_loss(shifted, unit, scale)
        screen, coarse = screening_losses(shifted, unit, scale, self._fpcs.screening, self._seed)
        if self._operand.producer == "softmax" and log_class(config.scheme).has_unit_scale_after_softmax:
            return Problem(base_grid(1.0, bases, device), None, loss, screen, coarse)
        qparams = incumbent.qparams()
        numerator = qparams.get("log_base_numerator", torch.tensor(float(bases[0]))).to(device)
        start = (numerator.reshape(1, 1), qparams["scale"].reshape(len(scale), 1)[:1] / scale[:1])
        narrow = self._cached(("positive",), lambda: _positive_quantile(error.values, self._fpcs.quantile))
        count = self._fpcs.log_bases if is_first else min(self._fpcs.log_bases, _BASES_GONE_ON_WITH)
        tried = best_bases(screen or loss, float(start[1]), bases, count, device, coarse=coarse)
        grid = log_grid(float((narrow + shift) / scale.max()), 1.0, tried, self._fpcs)
        return Problem(grid, start, loss, screen, coarse)

    def observed(self, config: OperandConfig) -> BaseQuantizer:
        """Make the quantizer of the observed range."""
        return quantizer_class(config.scheme).from_range(config, self._operand.layout, *self._range(config))

    def _range(self, config: OperandConfig) -> Pair:
        """Find least and greatest value, in the shape of the parameters."""

        def observe() -> Pair:
            kept = {axis % self._full.ndim for axis in self._operand.layout.kept_axes(config)}
            others = [axis for axis in range(self._full.ndim) if axis not in kept]
            return self._full.amin(others, keepdim=True), self._full.amax(others, keepdim=True)

        return self._cached(("range", config.granularity), observe)

    def _quantiles(self, values: Tensor) -> Pair:
        """Find the lower and upper quantile of each row, of shape (R,)."""
        flat = values.flatten(1)
        rank = max(1, min(flat.shape[1], math.ceil(self._fpcs.quantile * flat.shape[1])))
        return flat.kthvalue(flat.shape[1] - rank + 1, dim=1).values, flat.kthvalue(rank, dim=1).values

    def _cached(self, key: tuple[object, ...], compute: Callable[[], _T]) -> _T:
        if key not in self._cache:
            self._cache[key] = compute()
        return cast(_T, self._cache[key])


def _positive_quantile(values: Tensor, quantile: float) -> Tensor:
    """Find a quantile of the positive values, 0 if there are none."""
    positive = values[values > 0]
    if not len(positive):
        return torch.zeros((), device=values.device)
    return positive.kthvalue(max(1, math.ceil(quantile * len(positive)))).values
