"""Budgets as people write them: ``12.5G``, ``w4a4``, ``60%``."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass

from autoq.errors import BudgetError

_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "P": 10**15}
_ABSOLUTE = re.compile(r"(?P<number>\d+(\.\d*)?([eE][+-]?\d+)?|\.\d+) *(?P<unit>[KMGTP]?)(BOPs?)?", re.IGNORECASE)
_UNIFORM = re.compile(r"w(?P<weight>\d+)a(?P<activation>\d+)", re.IGNORECASE)
_PERCENT = re.compile(r"(?P<number>\d+(\.\d*)?|\.\d+) *%")
_REMEDY = "write it as 12.5G or 1.1T (absolute), w4a4 (cost of that uniform width) or 60% (of uniform w8a8)"


@dataclass(frozen=True)
class Budget:
    """A limit on BOPs per image, possibly relative to a model.

    Attributes:
        text: as the user wrote it.
        absolute: in BOPs, or None.
        uniform: (weight bits, activation bits) whose cost is the limit, or None.
        percent: of uniform 8/8, or None.
    """

    text: str
    absolute: float | None = None
    uniform: tuple[int, int] | None = None
    percent: float | None = None

    @classmethod
    def parse(cls, text: str) -> Budget:
        """Read a budget.

        Raises:
            BudgetError: it is in none of the three forms, or not positive.
        """
        written = text.strip()
        if match := _UNIFORM.fullmatch(written):
            bits = int(match["weight"]), int(match["activation"])
            if not all(1 <= width <= 32 for width in bits):
                raise BudgetError(f"budget {text!r}: bit-widths go from 1 to 32")
            return cls(written, uniform=bits)
        if match := _PERCENT.fullmatch(written):
            percent = float(match["number"])
            _check_size(percent > 0, percent, text)
            return cls(written, percent=percent)
        if match := _ABSOLUTE.fullmatch(written):
            absolute = float(match["number"]) * _UNITS[match["unit"].upper()]
            _check_size(absolute >= 1, absolute, text)
            return cls(written, absolute=absolute)
        raise BudgetError(f"cannot read budget {text!r}: {_REMEDY}")

    def resolve(self, uniform_cost: Callable[[int, int], int]) -> int:
        """Return the limit in BOPs per image.

        Args:
            uniform_cost: cost of the model with all weights at one width and all activations at another
                (``uniform_bops`` of its sites).
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


def _check_size(is_something: bool, limit: float, text: str) -> None:
    if not is_something:
        raise BudgetError(f"budget {text!r} leaves nothing to compute with; {_REMEDY}")
    if not math.isfinite(limit):
        raise BudgetError(f"budget {text!r} is more than a number can hold; {_REMEDY}")
