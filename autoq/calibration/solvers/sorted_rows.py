"""Rows of numbers in ascending order, for exact squared errors of few candidates."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class SortedRows:
    """Rows of numbers in ascending order, from which the squared error of an affine quantizer follows exactly.

    The sum is that of ``solvers.tables``, with F known everywhere: few candidates pay neither for a histogram fine
    enough for the narrowest of them nor for its memory.

    Attributes:
        values: of shape (rows, n).
        sums: of the values before each place, of shape (rows, n + 1), float64.
        squares: sum of all squares, of shape (rows, 1), float64.
    """

    values: Tensor
    sums: Tensor
    squares: Tensor

    @classmethod
    def of_rows(cls, rows: Tensor) -> SortedRows:
        """Sort numbers of shape (rows, n)."""
        values = rows.sort(1).values
        exact = values.double()
        sums = torch.nn.functional.pad(exact.cumsum(1), (1, 0))
        return cls(values, sums, exact.square().sum(1, keepdim=True))

    def affine_errors(self, scale: Tensor, zero_point: Tensor, bits: int) -> Tensor:
        """Compute the squared errors of K affine quantizers a row; parameters and result are of shape (rows, K)."""
        step, zero_point = scale.double(), zero_point.double()
        codes = torch.arange(2**bits - 1, dtype=torch.float64, device=step.device) + 0.5
        thresholds = ((codes - zero_point.unsqueeze(2)) * step.unsqueeze(2)).flatten(1)  # (rows, K · thresholds)
        place = torch.searchsorted(self.values, thresholds.float())
        below = (thresholds * place - self.sums.gather(1, place)).view(*step.shape, -1).sum(2)
        last = (2**bits - 1 - zero_point) * step
        whole = self.squares - 2 * last * self.sums[:, -1:] + last.square() * self.values.shape[1]
        errors: Tensor = whole - 2 * step * below
        return errors.clamp_(min=0)
