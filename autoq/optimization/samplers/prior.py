"""The knowledge of samplers before the first trial: exact costs, and sensitivities that add up."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from optuna.distributions import BaseDistribution, CategoricalDistribution

from autoq.errors import BudgetError
from autoq.optimization.allocation.knapsack import IntArray
from autoq.optimization.allocation.problem import Allocation, AllocationProblem, Table
from autoq.recipe import OperandConfig
from autoq.sensitivity.table import SensitivityTable


@dataclass(frozen=True, eq=False)
class AllocationPrior:
    """An allocation problem, and the loss of every option alone.

    Attributes:
        problem: options, costs and ties.
        table: the loss of each configuration of each operand when nothing else is quantized.
        limit: most that a recipe that counts may cost, of the kind that the front is over.
    """

    problem: AllocationProblem
    table: Table
    limit: int

    @classmethod
    def of(cls, problem: AllocationProblem, table: SensitivityTable | None, limit: int | None) -> AllocationPrior:
        """Make a prior of measured sensitivities; without them, all losses are zero and only costs are known.

        Without a limit, a recipe may cost as much as there is.
        """

        def loss(site: str, operand: str, config: OperandConfig) -> float:
            return 0.0 if table is None else table.loss(site, operand, config)

        return cls(problem, problem.table(loss), problem.maximum_cost if limit is None else limit)

    @cached_property
    def distributions(self) -> dict[str, BaseDistribution]:
        """The decisions of the space as Optuna's parameters, by name; not to be changed."""
        return {d.name: CategoricalDistribution(d.choices) for d in self.problem.space.decisions}

    @cached_property
    def least_cost(self) -> int:
        """The least that a recipe of configurations with finite losses costs."""
        problem = self.problem
        losses = problem.site_losses(self.table)
        costs = [np.where(np.isfinite(x), site.cost, np.inf) for site, x in zip(problem.sites, losses, strict=True)]
        enough = problem.fixed_cost + sum(int(site.cost.max()) for site in problem.sites)
        return problem.cost(problem.relaxed(costs, [enough])[0])

    def admits(self, combinations: IntArray) -> bool:
        """Tell whether a configuration, (sites,), is within all budgets."""
        return self.problem.cost(combinations) <= self.limit and bool(self.problem.satisfied(combinations[None])[0])

    def budget(self, position: int) -> int:
        """Choose a budget between the least cost and ``limit``, even on a logarithmic scale; 0 gives the latter.

        Positions 1, 2, … are the van der Corput sequence from the top: any number of first ones is spread evenly.
        """
        share, unit, rest = 0.0, 0.5, position
        while rest:
            share += unit * (rest & 1)
            rest >>= 1
            unit /= 2
        # A hundredth more, so that the least budget leaves something to choose.
        lowest = min(self.limit, round(1.01 * self.least_cost))
        return round(self.limit * math.pow(lowest / self.limit, share))

    def first_budgets(self, count: int) -> list[int]:
        """Choose the first ``count`` budgets, in their order, costs of uniform widths in the places of those near.

        Recipes are compared with uniform ones, and chosen by their costs (``--pick w4a4``).
        """
        found = [self.budget(position) for position in range(count)]
        free = set(range(1, count))
        for cost in self.problem.uniform_costs:
            if free and min(found) < cost < self.limit:
                nearest = min(sorted(free), key=lambda position: abs(math.log(found[position] / cost)))
                found[nearest] = cost
                free.remove(nearest)
        return list(dict.fromkeys(found))

    def allocate(self, budget: int) -> Allocation:
        """Allocate within a budget, exact to a thousandth of the loss.

        Where other budgets cannot be kept at so low a cost, the allocation is that of the limit.
        """
        try:
            return self.problem.allocate(self.table, budget, gap=1e-3)
        except BudgetError:
            if budget >= self.limit:
                raise
            return self.problem.allocate(self.table, self.limit, gap=1e-3)
