"""The budgets of a search, in numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from autoq.cost.budget import Budget
from autoq.cost.kinds import BOPS, KINDS, CostKind
from autoq.recipe import CostRecord

if TYPE_CHECKING:
    from autoq.cost.model import CostModel


@dataclass(frozen=True)
class Limits:
    """The most that a recipe may cost, of each kind that is limited.

    Attributes:
        most: kind of cost to its limit.

    >>> limits = Limits({"size": 1000})
    >>> limits.chosen.name, limits.limit
    ('size', 1000)
    """

    most: Mapping[str, int]

    @classmethod
    def resolve(cls, budgets: Mapping[str, Budget], costs: CostModel) -> Limits:
        """Work out budgets, by kind, for a model.

        Raises:
            BudgetError: a budget is of a cost that is not known.
        """
        found = {name: budget.resolve(partial(costs.uniform, KINDS[name])) for name, budget in budgets.items()}
        return cls({name: found[name] for name in KINDS if name in found})

    @property
    def chosen(self) -> CostKind:
        """The cost that the front is over: the first limited one that adds up over sites, else BOPs."""
        return next((KINDS[name] for name in self.most if KINDS[name].is_sum), BOPS)

    @property
    def limit(self) -> int | None:
        """The most of the chosen cost; None: as much as there is."""
        return self.most.get(self.chosen.name)

    @property
    def others(self) -> dict[str, int]:
        """The limits of all other costs."""
        return {name: value for name, value in self.most.items() if name != self.chosen.name}

    def admit(self, cost: CostRecord) -> bool:
        """Tell whether a recipe is within all budgets."""
        return all(value <= 0 for value in self.excess(cost).values())

    def excess(self, cost: CostRecord) -> dict[str, float]:
        """Return by what share of each budget a cost is above it, negative below: constraints as Optuna has them."""
        return {name: cost.amount(KINDS[name].field) / value - 1 for name, value in self.most.items()}

    def describe(self) -> str:
        """Write all budgets: ``3.2 MB of weights and 4 ms``."""
        return " and ".join(describe_amount(KINDS[name], value) for name, value in self.most.items())


def describe_amount(kind: CostKind, value: float) -> str:
    """Write an amount of a cost so that its unit says what it is: ``12 G BOPs``, ``3.2 MB of weights``, ``4 ms``."""
    of = f" of {kind.title}" if kind.unit == "B" else ""
    return f"{kind.format(value)}{of}"
