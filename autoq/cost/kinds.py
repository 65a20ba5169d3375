"""Kinds of cost: what a budget can limit, how it is written, and how it is shown."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from dataclasses import field as field_of
from types import MappingProxyType

from autoq.errors import BudgetError
from autoq.units import format_bops, format_bytes, format_nanoseconds
from autoq.validation import did_you_mean

_DECIMAL = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "P": 10**15}
_BYTES = {unit + "B": factor for unit, factor in _DECIMAL.items() if unit != "P"} | {
    "": 1,
    "KIB": 2**10,
    "MIB": 2**20,
    "GIB": 2**30,
}
_BOPS = _DECIMAL | {unit + suffix: factor for unit, factor in _DECIMAL.items() for suffix in ("BOP", "BOPS")}


@dataclass(frozen=True)
class CostKind:
    """One kind of cost, a whole number of its unit per image or per model.

    Attributes:
        name: ``--budget-NAME`` limits it.
        field: of ``ModelCost`` and ``CostRecord``.
        title: in tables.
        axis: on axes, without the unit.
        unit: of the number.
        units: what may follow a number in a budget, in capitals, and how much it is.
        example: an absolute budget, for messages.
        is_sum: whether it adds up over sites; else it is the largest of several sums.
    """

    name: str
    field: str
    title: str
    axis: str
    unit: str
    units: Mapping[str, float] = field_of(compare=False)
    example: str
    is_sum: bool = True

    def format(self, value: float) -> str:
        """Write an amount with three significant digits and its unit."""
        match self.unit:
            case "BOPs":
                return format_bops(value)
            case "ns":
                return format_nanoseconds(value)
        return format_bytes(value)


BOPS = CostKind("bops", "bops", "BOPs", "BOPs per image", "BOPs", MappingProxyType(_BOPS), "12.5G")
SIZE = CostKind(
    "size", "weight_bytes", "weights", "size of the weights with their scales", "B", MappingProxyType(_BYTES), "3.2MB"
)
ACTIVATIONS = CostKind(
    "activations",
    "activation_bytes",
    "activations",
    "largest set of live activations",
    "B",
    MappingProxyType(_BYTES),
    "250kB",
    is_sum=False,
)
LATENCY = CostKind(
    "latency",
    "latency_ns",
    "latency",
    "latency by the table",
    "ns",
    MappingProxyType({"NS": 1, "US": 10**3, "MS": 10**6, "S": 10**9}),
    "4ms",
)

KINDS: Mapping[str, CostKind] = MappingProxyType({kind.name: kind for kind in (BOPS, SIZE, LATENCY, ACTIVATIONS)})
"""Kinds of cost by name, in the order in which one of several budgets is taken for the front."""


def cost_kind(name: str) -> CostKind:
    """Return the kind of cost with a name.

    Raises:
        BudgetError: there is none.
    """
    if name not in KINDS:
        raise BudgetError(f"unknown cost {name!r}; there are {', '.join(KINDS)}.{did_you_mean(name, KINDS)}")
    return KINDS[name]
