"""Logarithmic quantizers: base and scale of least squared error, over all of them at once."""

from __future__ import annotations

from functools import lru_cache
from typing import ClassVar

import torch
from torch import Tensor

from autoq.calibration.solvers._base import BaseSolver
from autoq.calibration.solvers.rows import Rows
from autoq.calibration.solvers.tables import LogTable
from autoq.quantizers import BaseLogQuantizer, BaseQuantizer, create_quantizer, quantizer_class
from autoq.recipe import OperandConfig

SCALES = tuple(0.9**power for power in range(16))
"""Candidates of the search, relative to the greatest value."""
_BINS_FACTOR = 4
"""A histogram over forty octaves needs more bins for the few that matter; a value on the wrong side of a logarithmic
threshold, which is not half-way, costs more too."""


class LogarithmicSolver(BaseSolver):
    """Solves scale and, where the scheme fits it, base for least squared error; or the scale by its range."""

    quantizer: ClassVar[type] = BaseLogQuantizer

    def solve(self, config: OperandConfig) -> BaseQuantizer:
        """Choose among the candidate scales, at each of the scheme's bases.

        After softmax the scale is one for AdaLog (its §3.2) and for base 2 (FQ-ViT, §3.4); RepQ-ViT observes it for
        base √2 (``BaseLogQuantizer.has_unit_scale_after_softmax``).
        """
        rows, cls = self.data.rows(config), log_class(config.scheme)
        lower = torch.zeros_like(rows.lower) if self.data.operand.producer == "softmax" else rows.lower
        uppers, scales = self._candidates(cls, rows)
        starts = [self._between(config, rows, lower, upper).qparams() for upper in uppers]
        shift = starts[0]["shift"].flatten()[0]
        # Bounds are scaled above the shift, so that the lower one stays where the shift has put it.
        tops = torch.stack([start["scale"].flatten() for start in starts], 1)  # (rows, uppers)
        candidates = (tops.unsqueeze(2) * torch.tensor(scales, device=tops.device)).flatten(1)  # (rows, K)
        key = ("log", config.scheme, config.bits, config.overflow, rows.shape)
        errors, best = self.data.cached(key, lambda: self._errors(config, rows, shift, candidates).min(2))
        base = _choose_base(cls, config, errors)
        scale = candidates.gather(1, best[base].unsqueeze(1)).squeeze(1)  # (rows,)
        fitted = dict.fromkeys(cls.fitted_fields, cls.log_base_numerators[base])
        solved = self._between(config.model_copy(update=fitted), rows, lower, scale - shift)
        return create_quantizer(config, self.data.operand.layout, solved.qparams())

    def _candidates(self, cls: type[BaseLogQuantizer], rows: Rows) -> tuple[Tensor, tuple[float, ...]]:
        """Return upper bounds to try, of shape (uppers, rows), and factors to scale each by."""
        observer, upper = self.data.observer, rows.upper.unsqueeze(0)
        if self.data.operand.producer == "softmax" and cls.has_unit_scale_after_softmax:
            return torch.ones_like(upper), (1.0,)
        if observer.searches or observer.shrinks:
            return upper, SCALES if observer.searches else observer.shrinks
        offered = self.data.candidates(rows)
        return upper if offered is None else offered[1], (1.0,)

    def _between(self, config: OperandConfig, rows: Rows, lower: Tensor, upper: Tensor) -> BaseQuantizer:
        bounds = (bound.view(rows.shape) for bound in (lower, upper))
        return quantizer_class(config.scheme).from_range(config, self.data.operand.layout, *bounds)

    def _errors(self, config: OperandConfig, rows: Rows, shift: Tensor, candidates: Tensor) -> Tensor:
        def count() -> LogTable:
            return LogTable.of_rows((rows.values + shift).clamp(min=0), _BINS_FACTOR * self.data.settings.bins)

        return log_errors(self.data.cached(("log", rows.shape), count), candidates, config)


def log_errors(table: LogTable, scales: Tensor, config: OperandConfig) -> Tensor:
    """Compute the squared errors at every base that a logarithmic scheme can have.

    Args:
        table: of the shifted values.
        scales: K candidates a row, of shape (rows, K).
        config: scheme, bits and overflow.

    Returns:
        Of shape (bases, rows, K), the bases as in ``BaseLogQuantizer.log_base_numerators``.
    """
    cls = log_class(config.scheme)
    octaves = cls.octaves_per_code()  # (bases,)
    # Levels below the histogram are as good as zero; every base reaches its end within as many as the finest needs.
    count = min(2**config.bits - (config.overflow == "zero_code"), int(table.octaves / octaves.min()) + 2)
    levels = _levels(cls, config.bits, count)  # (bases, levels)
    return table.log_errors(scales, octaves.to(scales.device), levels.to(scales.device))


def log_class(scheme: str) -> type[BaseLogQuantizer]:
    """Return the class of a logarithmic scheme."""
    cls = quantizer_class(scheme)
    assert issubclass(cls, BaseLogQuantizer)  # noqa: S101 - only these are solved here
    return cls


def _choose_base(cls: type[BaseLogQuantizer], config: OperandConfig, errors: Tensor) -> int:
    """Return the index of the configured base, or of the one of least error (bases, rows)."""
    if cls.fitted_fields and config.log_base_numerator is not None:
        return cls.log_base_numerators.index(config.log_base_numerator)
    return int(errors.sum(1).argmin())


@lru_cache(maxsize=32)
def _levels(cls: type[BaseLogQuantizer], bits: int, count: int) -> Tensor:
    return cls.levels_of_bases(bits, count)
