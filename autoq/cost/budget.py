"""Budgets as people write them: ``12.5G``, ``3.2MB``, ``4ms``, ``w4a4``, ``60%``."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass

from autoq.cost.kinds import BOPS, CostKind
from autoq.errors import BudgetError

_ABSOLUTE = re.compile(r"(?P<number>\d+(\.\d*)?([eE][+-]?\d+)?|\.\d+) *(?P<unit>[A-Z]*)", re.IGNORECASE)
_UNIFORM = re.compile(r"w(?P<weight>\d+)a(?P<activation>\d+)", re.IGNORECASE)
_PERCENT = re.compile(r"(?P<number>\d+(\.\d*)?|\.\d+) *%")


@dataclass(frozen=True)
class Budget:
    """A limit on one kind of cost, possibly relative to a model.

    Attributes:
        text: as the user wrote it.
        absolute: in the unit of the cost, or None.
        uniform: (weight bits, activation bits) whose cost is the limit, or None.
        percent: of uniform 8/8, or None.
    """

    text: str
    absolute: float | None = None
    uniform: tuple[int, int] | None = None
    percent: float | None = None

    @classmethod
    def parse(cls, text: str, kind: CostKind = BOPS) -> Budget:
        """Read a budget.

        Args:
            text: an amount with a unit of the cost, ``w4a4`` or ``60%``.
            kind: of cost.

        Raises:
            BudgetError: it is in none of the three forms, or not positive.
        """
        remedy = f"write it as {kind.example} (absolute), w4a4 (cost of that uniform width) or 60% (of uniform w8a8)"
        written = text.strip()
        if match := _UNIFORM.fullmatch(written):
            bits = int(match["weight"]), int(match["activation"])
            if not all(1 <= width <= 32 for width in bits):
                raise BudgetError(f"budget {text!r}: bit-widths go from 1 to 32")
            return cls(written, uniform=bits)
        if match := _PERCENT.fullmatch(written):
            percent = float(match["number"])
            _check_size(percent > 0, percent, text, remedy)
            return cls(written, percent=percent)
        match = _ABSOLUTE.fullmatch(written)
        if match and match["unit"].upper() in kind.units:
            absolute = float(match["number"]) * kind.units[match["unit"].upper()]
            _check_size(absolute >= 1, absolute, text, remedy)
            return cls(written, absolute=absolute)
        raise BudgetError(f"cannot read budget {text!r}: {remedy}")

    def resolve(self, uniform_cost: Callable[[int, int], int]) -> int:
        """Return the limit in the unit of the cost.

        Args:
            uniform_cost: cost of the model with all weights at one width and all activations at another
                (``CostModel.uniform``).
        """
        if self.absolute is not None:
            return int(self.absolute)
        if self.uniform is not None:
            return uniform_cost(*self.uniform)
        assert self.percent is not None  # noqa: S101 - one of the three is set
        return int(uniform_cost(8, 8) * self.percent / 100)

    def widths(self, uniform_cost: Callable[[int, int], int]) -> tuple[int, int] | None:
        """Return the widths of weights and activations whose uniform recipes are compared with what the budget buys.

        Those that the budget names; of others the most bits whose cost lies at or below it, at most 8; None if uniform
        2/2 costs more.

        Args:
            uniform_cost: as in :meth:`resolve`.

        >>> Budget.parse("60%").widths(lambda weights, activations: weights * activations)
        (6, 6)
        """
        if self.uniform is not None:
            return self.uniform
        limit = self.resolve(uniform_cost)
        return next(((bits, bits) for bits in range(8, 1, -1) if uniform_cost(bits, bits) <= limit), None)


def _check_size(is_something: bool, limit: float, text: str, remedy: str) -> None:
    if not is_something:
        raise BudgetError(f"budget {text!r} leaves nothing to compute with; {remedy}")
    if not math.isfinite(limit):
        raise BudgetError(f"budget {text!r} is more than a number can hold; {remedy}")
