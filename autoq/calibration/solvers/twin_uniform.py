"""Twin uniform quantizers: the coarse scale and the shift of least squared error."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from autoq.calibration.solvers._base import BaseSolver
from autoq.calibration.solvers.by_range import RangeSolver
from autoq.calibration.solvers.sorted_rows import SortedRows
from autoq.calibration.solvers.tables import ELEMENTS_AT_ONCE
from autoq.quantizers import BaseQuantizer, TwinUniformQuantizer, quantizer_class
from autoq.recipe import OperandConfig

MOST_BITS = 10
"""Beyond, there are too many thresholds to look up, and so little error that a range does."""
_SCALES = tuple(0.9**power for power in range(31))
"""Candidates, relative to the scale that covers the greatest magnitude."""
_ZOOMS = 2
_FURTHER_SHIFTS = 5
"""Shifts are tried up to this many beyond ``bits``: GELU outputs reach some hundred times as far up as down."""


def twin_class(scheme: str) -> type[TwinUniformQuantizer]:
    """Return the class of a twin uniform scheme."""
    cls = quantizer_class(scheme)
    assert issubclass(cls, TwinUniformQuantizer)  # noqa: S101 - only these are solved here
    return cls


class TwinUniformSolver(BaseSolver):
    """Solves ``twin_uniform`` and ``twin_uniform_sum`` for least squared error, or by the range."""

    quantizer: ClassVar[type] = TwinUniformQuantizer

    def solve(self, config: OperandConfig) -> BaseQuantizer:
        """Search scale and shift where the observer tries scales; else, and at many bits, choose by the range."""
        rows, cls = self.data.rows(config), twin_class(config.scheme)
        layout, bounds = self.data.operand.layout, (bound.view(rows.shape) for bound in (rows.lower, rows.upper))
        if config.bits > MOST_BITS:
            return cls.from_range(config, layout, *bounds)
        if not self.data.observer.shrinks:
            return RangeSolver(self.data).solve(config)
        fine_sign = -1 if bool((rows.lower < 0).any()) else 1
        scale, shift_bits = search_twin(rows.values, config.bits, fine_sign, ranges_add=cls.ranges_add)
        return cls.with_scale(config, layout, scale.view(rows.shape), shift_bits, fine_sign)


def search_twin(values: Tensor, bits: int, fine_sign: int, *, ranges_add: bool = False) -> tuple[Tensor, int]:
    """Search the scale of each row and the shift of all rows with which the squared error is least.

    Every shift is tried; with each, scales on a grid of equal ratios and then on finer ones around the best. Errors are
    exact: sums between thresholds, looked up in sorted values.

    Args:
        values: of shape (rows, n).
        bits: code width, at most ``MOST_BITS``.
        fine_sign: sign of the values in the fine range.
        ranges_add: as the quantizer's class says.

    Returns:
        Scales of shape (rows,), float32, and m.
    """
    sums = _SortedSums(values.float())
    greatest = values.abs().amax(1, keepdim=True) if fine_sign < 0 else values.amax(1, keepdim=True).clamp(min=0)
    whole = greatest.double().clamp(min=torch.finfo(torch.float32).tiny) / max(2 ** (bits - 1) - 1, 1)
    grid = whole * torch.tensor(_SCALES, dtype=torch.float64, device=values.device)
    around = torch.arange(-2.0, 3.0, dtype=torch.float64, device=values.device) / 3
    best: tuple[float, Tensor, int] | None = None
    for shift_bits in range(1 if bits == 1 else bits + _FURTHER_SHIFTS + 1):
        tables = twin_levels(bits, shift_bits, fine_sign, ranges_add=ranges_add)
        thresholds, levels = (table.to(values.device) for table in tables)
        errors, scale = sums.best(grid, thresholds, levels)
        for zoom in range(_ZOOMS):
            errors, scale = sums.best(scale * (1 / 0.9) ** (around / 3**zoom), thresholds, levels)
        total = float(errors.sum())
        if best is None or total < best[0]:
            best = total, scale.flatten().float(), shift_bits
    assert best is not None  # noqa: S101 - no range above is empty
    return best[1], best[2]


def twin_levels(bits: int, shift_bits: int, fine_sign: int, *, ranges_add: bool = False) -> tuple[Tensor, Tensor]:
    """Compute what a twin uniform quantizer of scale one makes of a number: level i above i thresholds.

    Returns:
        Thresholds, ascending, and the levels, one more; float64.
    """
    if bits == 1:
        return torch.tensor([0.5], dtype=torch.float64), torch.tensor([0.0, 1.0], dtype=torch.float64)
    coarse = torch.arange(2 ** (bits - 1), dtype=torch.float64)
    fine = coarse * 2.0**-shift_bits
    halves, fine_halves = coarse[1:] - 0.5, fine[1:] - fine[1] / 2
    if ranges_add and fine_sign > 0:
        split = fine[-1]
        below = int(split.round())  # coarse steps that every value has
        return torch.cat([fine_halves, halves[below:]]), torch.cat([fine + below, coarse[below + 1 :] + split])
    if ranges_add:
        fine = torch.cat([fine, fine[-1:] + fine[1]])
        fine_halves = fine[1:] - fine[1] / 2
    if fine_sign < 0:
        return torch.cat([-fine_halves.flip(0), halves]), torch.cat([-fine[1:].flip(0), coarse])
    split = fine[1:2] * len(coarse)
    return torch.cat([fine_halves, split, halves.maximum(split)]), torch.cat([fine, coarse])


class _SortedSums:
    """Rows of numbers in order, with the sums of what lies below each."""

    def __init__(self, values: Tensor) -> None:
        rows = SortedRows.of_rows(values)
        self._sorted, self._sums, self._squares = rows.values.double(), rows.sums, rows.squares

    def best(self, scales: Tensor, thresholds: Tensor, levels: Tensor) -> tuple[Tensor, Tensor]:
        """Find the least squared error of each row, of shape (rows, 1), and its scale, among candidates (rows, K)."""
        at_once = max(1, ELEMENTS_AT_ONCE // (scales.shape[0] * len(levels)))
        errors = torch.cat([self._errors(some, thresholds, levels) for some in torch.split(scales, at_once, 1)], 1)
        least, index = errors.min(1, keepdim=True)
        return least, scales.gather(1, index)

    def _errors(self, scales: Tensor, thresholds: Tensor, levels: Tensor) -> Tensor:
        rows, count = scales.shape
        edges = (scales.unsqueeze(2) * thresholds).flatten(1)  # (rows, K · thresholds)
        below = torch.searchsorted(self._sorted, edges)
        mass_below = self._sums.gather(1, below)
        ends = torch.full((rows, count, 1), self._sorted.shape[1], device=scales.device)
        totals = self._sums[:, -1:].unsqueeze(2).expand(rows, count, 1)
        number = torch.diff(torch.cat([below.view(rows, count, -1), ends], 2), dim=2, prepend=torch.zeros_like(ends))
        mass = torch.diff(
            torch.cat([mass_below.view(rows, count, -1), totals], 2), dim=2, prepend=torch.zeros_like(totals)
        )
        value = scales.unsqueeze(2) * levels
        return (value * (value * number - 2 * mass)).sum(2) + self._squares
