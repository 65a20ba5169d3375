"""Uniform quantizers: scale and zero point of least squared error, coarse to fine on both together.

A small form of AdaLog's progressive search (Wu et al., ECCV 2024, §3.3): a grid of scales and zero points, then ever
finer grids around the best pair. Zero points are whole numbers, so searching them as such leaves none out.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from autoq.calibration.observers import Bounds
from autoq.calibration.solvers.affine_errors import Errors, affine_errors, direct_errors
from autoq.calibration.solvers.by_range import RangeSolver
from autoq.calibration.solvers.rows import Rows
from autoq.quantizers import BaseQuantizer, UniformQuantizer, create_quantizer
from autoq.quantizers._affine import choose_affine_qparams, symmetric_zero_point
from autoq.recipe import OperandConfig

_RATIO = 0.86
_ZOOMS = 4
_ALL_ZERO_POINTS_BITS = 3
_THOROUGH_ROWS = 16
"""Up to here, as activations have them, a wide search costs next to nothing."""


class UniformSolver(RangeSolver):
    """Solves ``uniform`` by its range; scale and zero point are searched together."""

    quantizer: ClassVar[type] = UniformQuantizer

    def solve(self, config: OperandConfig) -> BaseQuantizer:
        """Choose one range a row, of those that the observer offers, or search scale and zero point."""
        settings, observer = self.data.settings, self.data.observer
        if settings.include_zero or config.symmetric or observer.searches:
            return super().solve(config)
        rows = self.data.rows(config)
        lower, upper = self.data.candidates(rows) or (rows.lower.unsqueeze(0), rows.upper.unsqueeze(0))
        scale, zero_point = choose_affine_qparams(lower.t(), upper.t(), config.bits, include_zero=False)
        if len(lower) > 1:
            errors = direct_errors(rows.values, scale, zero_point, config.bits)
            best = errors.argmin(1, keepdim=True)
            scale, zero_point = scale.gather(1, best), zero_point.gather(1, best)
        qparams = {"scale": scale.reshape(rows.shape), "zero_point": zero_point.reshape(rows.shape)}
        return create_quantizer(config, self.data.operand.layout, qparams)

    def _search(self, config: OperandConfig, rows: Rows) -> Bounds:
        return search_uniform(
            affine_errors(rows.values, lambda: self.data.linear_table(rows), config.bits),
            config.bits,
            rows.lower,
            rows.upper,
            symmetric=config.symmetric,
            thorough=len(rows.values) <= _THOROUGH_ROWS,
        )


def search_uniform(
    errors: Errors, bits: int, lower: Tensor, upper: Tensor, *, symmetric: bool, thorough: bool
) -> tuple[Tensor, Tensor]:
    """Search the bounds of least squared error.

    Args:
        errors: of candidates.
        bits: code width.
        lower: observed bounds, of shape (rows,).
        upper: observed bounds, of shape (rows,).
        symmetric: the zero point is fixed.
        thorough: more candidates to start from; for few rows with unlike tails.

    Returns:
        Lower and upper bounds of shape (rows,), from which ``UniformQuantizer.from_range`` makes the best pair found.
    """
    steps = 2**bits - 1
    if symmetric:
        reach = torch.maximum(lower.abs(), upper.abs())
        lower, upper = -reach, reach
    lower, upper = lower.clamp(max=0).unsqueeze(1), upper.clamp(min=0).unsqueeze(1)
    span = (upper - lower).clamp(min=torch.finfo(torch.float32).tiny)
    spacing = steps / 16
    powers = torch.arange(26 if thorough else 12, device=lower.device)
    offsets = torch.arange(-4, 5) if thorough else torch.arange(-1, 2)
    if symmetric:
        zero_points = torch.full_like(lower, symmetric_zero_point(bits))
    elif bits <= _ALL_ZERO_POINTS_BITS:
        zero_points = torch.arange(steps + 1.0, device=lower.device).expand(lower.shape[0], -1)
    else:
        zero_points = (-lower / span * steps + offsets.to(lower.device) * spacing).round().clamp(0, steps)
    scales = _RATIO**powers * span / steps  # (rows, scales)
    scale, zero_point = _best(errors, scales, zero_points)
    around = torch.tensor([-1.0, 0.0, 1.0], device=lower.device)
    for zoom in range(1, _ZOOMS + 1):
        finer = around * max(1, round(spacing / 2**zoom))
        near = zero_point if symmetric else (zero_point + finer).round().clamp(0, steps)
        scale, zero_point = _best(errors, scale * _RATIO ** (around * 0.5**zoom), near)
    if symmetric:
        return (-scale * steps / 2).squeeze(1), (scale * steps / 2).squeeze(1)
    return (-zero_point * scale).squeeze(1), ((steps - zero_point) * scale).squeeze(1)


def _best(errors: Errors, scales: Tensor, zero_points: Tensor) -> tuple[Tensor, Tensor]:
    """Find the best of all pairs of a row's scales (rows, S) and zero points (rows, Z)."""
    shape = (scales.shape[0], scales.shape[1], zero_points.shape[1])
    scale = scales.unsqueeze(2).expand(shape).flatten(1)
    zero_point = zero_points.unsqueeze(1).expand(shape).flatten(1)
    best = errors(scale, zero_point).argmin(1, keepdim=True)
    return scale.gather(1, best), zero_point.gather(1, best)
