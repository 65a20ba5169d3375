"""Budgets as people write them: ``12.5G``, ``w4a4``, ``60%``."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from autoq.cost.bops import uniform_bops
from autoq.errors import BudgetError
from autoq.graph.sites import Site

_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "P": 10**15}
_ABSOLUTE = re.compile(r"(?P<number>\d+(\.\d*)?([eE][+-]?\d+)?|\.\d+)\s*(?P<unit>[KMGTP]?)(BOPs?)?", re.IGNORECASE)
_UNIFORM = re.compile(r"w(?P<weight>\d+)a(?P<activation>\d+)", re.IGNORECASE)
_PERCENT = re.compile(r"(?P<number>\d+(\.\d*)?|\.\d+)\s*%")
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
            if percent <= 0:
                raise BudgetError(f"budget {text!r} leaves nothing to compute with; {_REMEDY}")
            return cls(written, percent=percent)
        if match := _ABSOLUTE.fullmatch(written):
            absolute = float(match["number"]) * _UNITS[match["unit"].upper()]
            if absolute <= 0:
                raise BudgetError(f"budget {text!r} leaves nothing to compute with; {_REMEDY}")
            return cls(written, absolute=absolute)
        raise BudgetError(f"cannot read budget {text!r}: {_REMEDY}")

    def resolve(self, sites: Sequence[Site]) -> int:
        """The limit in BOPs per image for a model with these sites."""
        if self.absolute is not None:
            return int(self.absolute)
        if self.uniform is not None:
            return uniform_bops(sites, *self.uniform)
        assert self.percent is not None  # noqa: S101 - one of the three is set
        return int(uniform_bops(sites, 8, 8) * self.percent / 100)


def format_bops(bops: float) -> str:
    """Three significant digits and a unit: ``1.25 G``."""
    for unit, size in reversed(_UNITS.items()):
        if bops >= size:
            return f"{bops / size:.3g} {unit}".rstrip() if bops / size < 999.5 else f"{bops / size:.0f} {unit}".rstrip()
    return f"{bops:.3g}"
