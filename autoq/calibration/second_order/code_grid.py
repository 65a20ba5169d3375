"""The values that a weight's codes stand for, in the form that rounding column by column needs."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor


@dataclass(frozen=True)
class CodeGrid:
    """Values (code − zero_point) · step, or levels[code] · step.

    All but ``levels`` have the shape (rows, channels), or one in place of either where it makes no difference.

    Attributes:
        step: positive.
        zero_point: code of zero.
        most: greatest code; codes count from 0.
        levels: values in steps, in ascending order, where they are not equally spaced; else None.
    """

    step: Tensor
    zero_point: Tensor
    most: Tensor
    levels: Tensor | None = None

    @classmethod
    def of_levels(cls, step: Tensor, levels: Tensor) -> CodeGrid:
        """Describe values that are not equally spaced."""
        single = torch.zeros((1, 1), device=step.device)
        return cls(step, single, single + len(levels) - 1, levels)

    def values(self, codes: Tensor) -> Tensor:
        """Return what codes (whole numbers, of any type) stand for, of the shape (rows, channels)."""
        return self.in_steps(codes) * self.step

    def in_steps(self, codes: Tensor) -> Tensor:
        """Return the same in steps."""
        return codes - self.zero_point if self.levels is None else self.levels[codes.long()]

    def by_column(self, rows: int, channels: int, order: Tensor | None = None) -> ColumnGrid:
        """Take all apart by channels, so that a column of the weight lies in one piece.

        Args:
            rows: of the weight.
            channels: of the weight.
            order: of the channels; None: as they are.
        """

        def column_first(parameter: Tensor) -> tuple[Tensor, ...]:
            wide = parameter.float().expand(rows, -1)
            if wide.shape[1] == 1:
                return (wide.flatten().contiguous(),) * channels
            return (wide if order is None else wide[:, order]).t().contiguous().unbind()

        return ColumnGrid(column_first(self.step), column_first(self.zero_point), column_first(self.most), self.levels)


@dataclass(frozen=True)
class ColumnGrid:
    """A :class:`CodeGrid` by columns of the weight: for each channel, one tensor of shape (rows,)."""

    step: tuple[Tensor, ...]
    zero_point: tuple[Tensor, ...]
    most: tuple[Tensor, ...]
    levels: Tensor | None

    def snap_(self, at: int, column: Tensor, code: Tensor, value: Tensor) -> None:
        """Find the nearest codes of one column, and what they stand for.

        Args:
            at: number of the column.
            column: wanted values, of shape (rows,).
            code: gets the codes.
            value: gets the values; may not be ``column``.
        """
        step = self.step[at]
        torch.div(column, step, out=code)
        if self.levels is None:
            zero_point = self.zero_point[at]
            code.add_(zero_point).round_().clamp_(min=0)
            torch.minimum(code, self.most[at], out=code)
            torch.sub(code, zero_point, out=value).mul_(step)
        else:
            nearest = torch.bucketize(code, self._thresholds)
            torch.mul(self.levels[nearest], step, out=value)
            code.copy_(nearest)

    @cached_property
    def _thresholds(self) -> Tensor:
        assert self.levels is not None  # noqa: S101 - checked by the caller
        return (self.levels[1:] + self.levels[:-1]) / 2
