"""Prefix sums over histograms, from which squared errors follow without touching a value again.

For an affine quantizer with values v_0 < … < v_L a step s apart and thresholds t_c half-way between them, summation by
parts gives the squared error over a row of numbers x::

    Σ (x − q(x))² = Σ (x − v_L)² − 2 s Σ_c F(t_c),    F(t) = Σ_{x < t} (t − x)

F is known exactly at the edges of the bins, and its tangent at the nearest edge is used elsewhere: one look-up a
threshold, however many numbers there are. That amounts to sending a whole bin to one value, which a table of b bins
overestimates by about (2^bits / b)² of the error.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

ELEMENTS_AT_ONCE = 250_000
"""Elements worked on at a time: few enough to stay in a cache, enough that what Python does between them costs little.
The bank solves operands side by side on one PyTorch thread each, so torch does not split them."""


@dataclass(frozen=True)
class LinearTable:
    """Rows of numbers in equally wide bins; each row has its own range.

    Attributes:
        low: least number of each row, of shape (rows, 1).
        width: width of its bins, of shape (rows, 1).
        sums: number, sum and sum of squares of the numbers below each edge, of shape (3, rows, bins + 1), float64. They
            are in bins above ``low``, so that edge i is i.
    """

    low: Tensor
    width: Tensor
    sums: Tensor

    @classmethod
    def of_rows(cls, rows: Tensor, bins: int) -> LinearTable:
        """Count numbers of shape (rows, n)."""
        count = rows.shape[0]
        row_of = torch.arange(count, device=rows.device).unsqueeze(1).expand_as(rows)
        return cls._of(rows, row_of, rows.amin(1, keepdim=True), rows.amax(1, keepdim=True), bins)

    @classmethod
    def of_members(cls, values: Tensor, row_of: Tensor, weights: Tensor, count: int, bins: int) -> LinearTable:
        """Count numbers, given the row and the weight of each, of shape (n,); some of ``count`` rows may be empty."""
        empty = torch.zeros(count, device=values.device)
        low = empty.scatter_reduce(0, row_of, values, "amin", include_self=False).unsqueeze(1)
        high = empty.scatter_reduce(0, row_of, values, "amax", include_self=False).unsqueeze(1)
        return cls._of(values, row_of, low, high, bins, weights)

    @classmethod
    def _of(
        cls, values: Tensor, row_of: Tensor, low: Tensor, high: Tensor, bins: int, weights: Tensor | None = None
    ) -> LinearTable:
        tiny = torch.finfo(torch.float32).tiny
        width = ((high.double() - low.double()) / bins).clamp(min=tiny)
        count = low.shape[0]
        if values.ndim == 2:
            position = (values.double() - low) / width
        else:
            position = (values.double() - low.flatten()[row_of]) / width.flatten()[row_of]
        return cls(low.double(), width, prefix_sums(position, position, row_of, count, bins, weights))

    def affine_errors(self, scale: Tensor, zero_point: Tensor, bits: int, *, exact: bool) -> Tensor:
        """Compute the squared errors of affine quantizers.

        Args:
            scale: K candidates for each row or for all, of shape (rows or 1, K).
            zero_point: of the same shape; values are (code − zero_point) · scale.
            bits: code width.
            exact: look every threshold up; else take their sum for an integral, good for many codes.

        Returns:
            Of shape (rows, K), float64.
        """
        method = self._exact if exact else self._integrated
        scale = scale.double() / self.width
        first = -zero_point.double() * scale - self.low / self.width
        count = max(1, ELEMENTS_AT_ONCE // (scale.shape[1] * (2**bits if exact else 4)))
        rows = [
            method(sums, low, step, bits)
            for sums, low, step in zip(
                torch.split(self.sums, count, 1), torch.split(first, count), torch.split(scale, count), strict=True
            )
        ]
        return (torch.cat(rows) if len(rows) > 1 else rows[0]).clamp_(min=0).mul_(self.width.square())

    def _exact(self, sums: Tensor, first: Tensor, step: Tensor, bits: int) -> Tensor:
        codes = torch.arange(2**bits - 1, dtype=torch.float64, device=sums.device) + 0.5
        thresholds = torch.addcmul(first.unsqueeze(2), step.unsqueeze(2), codes).flatten(1)  # (rows, K · thresholds)
        edge = thresholds.round().clamp_(0, sums.shape[2] - 1).long()
        below = thresholds.mul_(sums[0].gather(1, edge)).sub_(sums[1].gather(1, edge))
        last = first + step * (2**bits - 1)
        total = sums[:, :, -1:]
        whole = total[2] - 2 * last * total[1] + last.square() * total[0]
        errors: Tensor = whole - 2 * step * below.view(*step.shape, -1).sum(2)
        return errors

    def _integrated(self, sums: Tensor, first: Tensor, step: Tensor, bits: int) -> Tensor:
        """Add what is clipped to s² / 12 for each number that is not (the limit of many codes: Bennett, 1948)."""
        last = first + step * (2**bits - 1)
        low, high = (bound.round().clamp(0, sums.shape[2] - 1).long() for bound in (first, last))
        low_sums, high_sums = ([table.gather(1, edge) for table in sums] for edge in (low, high))
        below = first.square() * low_sums[0] - 2 * first * low_sums[1] + low_sums[2]
        above_sums = [table[:, -1:] - high_sum for table, high_sum in zip(sums, high_sums, strict=True)]
        above = last.square() * above_sums[0] - 2 * last * above_sums[1] + above_sums[2]
        errors: Tensor = step.square() / 12 * (high_sums[0] - low_sums[0])
        return errors.add_(below.clamp_(min=0)).add_(above.clamp_(min=0))


@dataclass(frozen=True)
class LogTable:
    """Rows of non-negative numbers in bins of equal ratio below each row's greatest.

    Attributes:
        top: greatest number of each row, of shape (rows, 1).
        sums: number, sum and sum of squares of the numbers below each edge, relative to ``top``, of shape
            (3, rows, bins + 1), float64. Edge i is 2^((i / bins − 1) · octaves).
        octaves: depth of the histogram; what lies deeper is in the first bin.
    """

    top: Tensor
    sums: Tensor
    octaves: float

    @classmethod
    def of_rows(cls, rows: Tensor, bins: int, octaves: float = 40.0) -> LogTable:
        """Count numbers of shape (rows, n)."""
        top = rows.amax(1, keepdim=True).clamp(min=torch.finfo(torch.float32).tiny)
        relative = rows / top
        position = (torch.log2(relative.clamp(min=2.0**-octaves)) / octaves + 1) * bins
        row_of = torch.arange(rows.shape[0], device=rows.device).unsqueeze(1).expand_as(rows)
        return cls(top.double(), prefix_sums(relative.double(), position, row_of, rows.shape[0], bins), octaves)

    def log_errors(self, scale: Tensor, octaves_per_code: Tensor, values: Tensor) -> Tensor:
        """Compute the squared errors of logarithmic quantizers with the last code for zero.

        Args:
            scale: K candidates for each row, of shape (rows, K).
            octaves_per_code: log2 of Q bases, of shape (Q,).
            values: at scale one, of shape (Q, levels), without zero.

        Returns:
            Of shape (Q, rows, K), float64.
        """
        _, rows, edges = self.sums.shape
        relative = (scale.double() / self.top).unsqueeze(2)
        codes = torch.arange(values.shape[1], dtype=torch.float64, device=values.device) + 0.5
        first_edge = torch.arange(rows, device=values.device).view(-1, 1, 1) * edges
        total = self.sums[:, :, -1].view(3, rows, 1, 1)
        per_octave = (edges - 1) / self.octaves
        top_edge = (relative.log2() + self.octaves) * per_octave
        errors = []
        at_once = max(1, ELEMENTS_AT_ONCE // (scale.numel() * values.shape[1]))
        for steps, levels in zip(
            torch.split(octaves_per_code.double(), at_once), torch.split(values.double(), at_once), strict=True
        ):
            below = (steps * per_octave).view(-1, 1, 1, 1) * codes
            edge = (top_edge - below).round_().clamp_(0, edges - 1).long().add_(first_edge)
            # What lies between two thresholds, from the greatest numbers down.
            number, mass = (
                torch.diff(table.take(edge), dim=3, prepend=whole.expand(*edge.shape[:3], 1)).neg_()
                for table, whole in zip(self.sums[:2], total[:2], strict=True)
            )
            value = relative * levels.view(-1, 1, 1, levels.shape[1])
            errors.append((number.mul_(value).sub_(mass, alpha=2).mul_(value)).sum(3) + total[2, :, :, 0])
        return torch.cat(errors).clamp_(min=0) * self.top.square()


def prefix_sums(
    values: Tensor, position: Tensor, row_of: Tensor, count: int, bins: int, weights: Tensor | None = None
) -> Tensor:
    """Compute number, sum and sum of squares of the values below each edge.

    Args:
        values: numbers, of any shape.
        position: of the same shape: the bin that each lies in, cut to 0..bins − 1.
        row_of: of the same shape: the row that each belongs to.
        count: number of rows.
        bins: number of bins.
        weights: of the same shape: how often each value counts; None: once.

    Returns:
        Of shape (3, count, bins + 1), float64.
    """
    index = (position.long().clamp_(0, bins - 1) + row_of * (bins + 1) + 1).flatten()
    flat = values.double().flatten()
    sums = torch.zeros(3, count * (bins + 1), dtype=torch.float64, device=values.device)
    number = torch.ones_like(flat) if weights is None else weights.double().flatten()
    mass = number * flat
    for row, addend in zip(sums, (number, mass, mass * flat), strict=True):
        row.scatter_add_(0, index, addend)
    return sums.view(3, count, bins + 1).cumsum_(2)
