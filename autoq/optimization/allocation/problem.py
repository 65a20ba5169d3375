"""Allocation: one option for each operand, so that losses that add up are least within budgets.

A multiple-choice knapsack, as in HAWQ-V3 (Yao et al., ICML 2021, eq. 9). What a site costs is the product of the bits
of its two operands plus the overhead of groups, so that its classes are the sites, and a class's items are the
combinations of the options of a site's operands. Several budgets at once make it an integer linear program.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np
import numpy.typing as npt

from autoq.cost import KINDS, CostModel, Limits
from autoq.cost.kinds import ACTIVATIONS, CostKind
from autoq.errors import BudgetError, NonFiniteError, SpaceError
from autoq.optimization.allocation.combinations import site_combinations
from autoq.optimization.allocation.knapsack import FloatArray, IntArray
from autoq.optimization.allocation.several_budgets import SeveralBudgets
from autoq.optimization.allocation.tied_knapsack import TiedKnapsack
from autoq.optimization.space import OperandPlan, ResolvedSpace
from autoq.recipe import OperandConfig, SiteConfig

Loss = Callable[[str, str, OperandConfig], float]
"""Site, operand and canonical configuration to the loss when only this operand is quantized, and so; infinite where
that is unusable."""

Table = Sequence[FloatArray]
"""For each operand of ``AllocationProblem.operands`` (options,): the losses of its ``AllocationProblem.options``."""


@dataclass(frozen=True, eq=False)
class Allocation:
    """A solution.

    Attributes:
        combinations: (sites,) the combination of each site.
        assignment: of every decision of the space.
        loss: sum over the sites.
        cost: of the whole model.
        optimal: whether no other within the budget is better by more than the gap asked for.
    """

    combinations: IntArray
    assignment: dict[str, Any]
    loss: float
    cost: int
    optimal: bool


class AllocationProblem:
    """What can be allocated: sites, their combinations, costs and ties. Knows no losses, and does not change.

    Attributes:
        space: whose decisions are allocated.
        sites: those with quantized operands, in the order of the model.
        operands: (site, operand) of all quantized operands, in the order of the space's plans.
        options: the distinct canonical configurations of each operand, as ``space.options_for`` lists them.
        tied: names of the decisions that touch several sites.
        fixed_cost: cost of what is not allocated, sites that stay in floating point among them.
        limits: the budgets; the cost is of the kind that their front is over.
        uniform_costs: of as many bits everywhere, 2 to 8, of that kind and as far as they are known.
    """

    def __init__(self, costs: CostModel, space: ResolvedSpace, limits: Limits | None = None) -> None:
        """List the combinations of every site.

        Args:
            costs: of the model.
            space: whose decisions are allocated.
            limits: budgets besides that of the cost that the front is over, which each allocation is given by itself;
                None: there are none, and the front is over BOPs.
        """
        self.space, self.limits, sites = space, limits or Limits({}), costs.sites
        kinds = {self.limits.chosen.name: self.limits.chosen}
        kinds |= {name: KINDS[name] for name in self.limits.others if KINDS[name].is_sum}
        of_site = {name: partial(costs.site_cost, kind) for name, kind in kinds.items()}
        self.operands = tuple((plan.site, plan.operand.name) for plan in space.plans)
        self.options = tuple(space.options_for(*operand) for operand in self.operands)
        self.tied = tuple(d.name for d in space.decisions if len({site for site, _ in d.targets}) > 1)
        self._decisions = {decision.name: decision for decision in space.decisions}
        plans: dict[str, list[OperandPlan]] = {}
        for plan in space.plans:
            plans.setdefault(plan.site, []).append(plan)
        self.sites = tuple(
            site_combinations(site, plans[site.name], space, self.tied, of_site) for site in sites if site.name in plans
        )
        fixed = {
            name: costs.rest_cost(kind) + sum(of_site[name](site, {}) for site in sites if site.name not in plans)
            for name, kind in kinds.items()
        }
        self.fixed_cost = fixed.pop(self.limits.chosen.name)
        self.uniform_costs = tuple(_uniform_costs(costs, self.limits.chosen))
        self._others = self._other_budgets(costs, fixed)
        self._priced: Sequence[FloatArray] | None = None
        position = {operand: index for index, operand in enumerate(self.operands)}
        self._columns = [[position[site.site, p.operand.name] for p in plans[site.site]] for site in self.sites]
        self._index = [
            {_key(ties, configs): number for number, (ties, configs) in enumerate(zip(s.ties, s.configs, strict=True))}
            for s in self.sites
        ]

    def _other_budgets(self, costs: CostModel, fixed: Mapping[str, int]) -> SeveralBudgets | None:
        if not self.limits.others:
            return None
        others = SeveralBudgets(self.sites, {name: self.limits.others[name] for name in fixed}, fixed)
        if ACTIVATIONS.name in self.limits.others:
            others.limit_activations(costs, self.limits.others[ACTIVATIONS.name])
        return others

    @cached_property
    def minimum_cost(self) -> int:
        """The least that the model can cost."""
        return self._extreme(1)

    @cached_property
    def maximum_cost(self) -> int:
        """The most that the model can cost."""
        return self._extreme(-1)

    def _extreme(self, sign: int) -> int:
        costs, ties = [sign * site.cost for site in self.sites], [site.ties for site in self.sites]
        # Any assignment keeps the ties, so that there is a least cost.
        return self.fixed_cost + sign * (TiedKnapsack(costs, [np.zeros(len(t)) for t in ties], ties).least_cost or 0)

    def table(self, loss: Loss) -> list[FloatArray]:
        """Compute the losses of every option of every operand."""
        return [
            np.array([loss(*operand, config) for config in configs], dtype=np.float64)
            for operand, configs in zip(self.operands, self.options, strict=True)
        ]

    def site_losses(self, table: Table) -> list[FloatArray]:
        """Add the losses of operands up.

        Args:
            table: losses of options, as from ``table``.

        Returns:
            For each site (combinations,): the sum over its operands, infinite where any of them is NaN or infinite.
        """
        usable = [np.where(np.isfinite(losses), losses, np.inf) for losses in table]
        return [
            np.sum([usable[c][site.options[:, j]] for j, c in enumerate(columns)], axis=0, dtype=np.float64)
            for site, columns in zip(self.sites, self._columns, strict=True)
        ]

    def allocate(self, table: Table, budget: int, *, gap: float = 1e-6) -> Allocation:
        """Find the allocation of least loss within a budget.

        Args:
            table: losses, as from ``table``; options whose loss is NaN or infinite are not used.
            budget: the most that the model may cost.
            gap: how much better, relative to the loss, an undiscovered solution may be; 0 asks for the best.

        Raises:
            BudgetError: no usable configuration keeps all budgets.
            NonFiniteError: a site has no usable option.
        """
        return self.sweep(table, [budget], gap=gap)[0]

    def sweep(self, table: Table, budgets: Sequence[int], *, gap: float = 1e-6) -> list[Allocation]:
        """Allocate as ``allocate`` does for each of several budgets, in their order, without repeated solutions.

        Budgets that cannot be kept together with those of other costs are left out, unless all are.
        """
        losses = self.site_losses(table)
        knapsack = self._knapsack(losses)
        allocations: dict[bytes, Allocation] = {}
        for budget in budgets:
            share = self._share(budget, knapsack)
            if self._others is None:
                chosen, optimal = knapsack.exact(share, gap)
            elif (found := self._others.exact(losses, share, gap)) is not None:
                chosen, optimal = found
            else:
                continue
            loss = math.fsum(loss[combination] for loss, combination in zip(losses, chosen, strict=True))
            allocation = Allocation(chosen, self.assignment(chosen), loss, self.cost(chosen), optimal)
            allocations.setdefault(chosen.tobytes(), allocation)
        if not allocations:
            raise self._unkeepable(max(budgets))
        return list(allocations.values())

    def relaxed(self, site_losses: Sequence[FloatArray], budgets: Sequence[int]) -> list[IntArray]:
        """Find combinations within each budget and near the best, in less time than ``sweep`` takes; raise as it does.

        Args:
            site_losses: (combinations,) for each site, as from ``site_losses``.
            budgets: the most that the model may cost. Other budgets are priced, not kept: see :meth:`satisfied`.

        Returns:
            For each budget (sites,): the combination of each site.
        """
        priced = [loss + price for loss, price in zip(site_losses, self._prices(site_losses), strict=True)]
        knapsack = self._knapsack(priced)
        return [knapsack.relaxed(self._share(budget, knapsack)) for budget in budgets]

    def satisfied(self, combinations: IntArray) -> npt.NDArray[np.bool_]:
        """Tell which configurations, of shape (n, sites), keep the budgets of other costs: (n,)."""
        return np.ones(len(combinations), dtype=bool) if self._others is None else self._others.satisfied(combinations)

    def _prices(self, losses: Sequence[FloatArray]) -> Sequence[FloatArray | float]:
        """Return what combinations take of other budgets, priced where the first losses were allocated."""
        if self._others is None:
            return [0.0] * len(losses)
        if self._priced is None:
            limit = self.limits.limit
            self._priced = self._others.penalties(losses, None if limit is None else limit - self.fixed_cost)
        return self._priced

    def _unkeepable(self, budget: int) -> BudgetError:
        chosen, others = self.limits.chosen, self.limits.others
        kept = Limits({chosen.name: budget, **others})
        return BudgetError(
            f"no usable recipe in space {self.space.name!r} keeps all budgets at once, {kept.describe()}: raise one, "
            "or widen the space"
        )

    def _knapsack(self, losses: Sequence[FloatArray]) -> TiedKnapsack:
        for site, loss in zip(self.sites, losses, strict=True):
            if not np.isfinite(loss).any():
                raise NonFiniteError(
                    f"no option of {site.site} in space {self.space.name!r} has a finite loss; offer it more bits or "
                    "leave it in floating point",
                    site.site,
                )
        return TiedKnapsack([site.cost for site in self.sites], losses, [site.ties for site in self.sites])

    def _share(self, budget: int, knapsack: TiedKnapsack) -> int:
        """Subtract the cost of the fixed sites from a budget; refuse one that cannot be kept."""
        if knapsack.least_cost is None:
            raise NonFiniteError(
                f"no common choices of {', '.join(self.tied)} have finite losses at all the sites that they tie; offer "
                "more bits or untie them"
            )
        least = self.fixed_cost + knapsack.least_cost
        if budget < least:
            kind = self.limits.chosen
            raise BudgetError(
                f"budget {budget} is {kind.format(budget)}, but the cheapest usable recipe in space "
                f"{self.space.name!r} costs {kind.format(least)} ({least}): raise the budget or widen the space"
            )
        return int(budget) - self.fixed_cost

    def combinations_of(self, assignment: Mapping[str, Any]) -> IntArray:
        """Find (sites,) the combination of each site under an assignment.

        Raises:
            SpaceError: a decision is missing or unknown, or gets a value that it does not offer.
        """
        recipe = self.space.sites_for(assignment)
        taken = np.array([self._decisions[name].choices.index(assignment[name]) for name in self.tied], dtype=np.int64)
        return np.array(
            [
                index[_key(np.where(site.ties[0] < 0, -1, taken), recipe[site.site])]
                for site, index in zip(self.sites, self._index, strict=True)
            ],
            dtype=np.int64,
        )

    def assignment(self, combinations: Iterable[int]) -> dict[str, Any]:
        """Find an assignment that gives each site its combination.

        Raises:
            SpaceError: two sites disagree in a tied decision.
        """
        taken: dict[str, Any] = {}
        for site, combination in zip(self.sites, combinations, strict=True):
            for name, value in site.assignments[combination].items():
                if taken.setdefault(name, value) != value:
                    raise SpaceError(
                        f"{name!r} is {taken[name]!r} elsewhere and {value!r} at {site.site}; tied sites need options "
                        "with the same choice"
                    )
        return {decision.name: taken[decision.name] for decision in self.space.decisions}

    def cost(self, combinations: Iterable[int]) -> int:
        """Add up the cost of the whole model."""
        return self.fixed_cost + sum(int(s.cost[c]) for s, c in zip(self.sites, combinations, strict=True))


def _uniform_costs(costs: CostModel, kind: CostKind) -> Iterator[int]:
    """Yield the costs of uniform widths; a latency table need not have all."""
    for bits in range(2, 9):
        with contextlib.suppress(BudgetError):
            yield costs.uniform(kind, bits, bits)


def _key(ties: IntArray, configs: SiteConfig) -> tuple[Any, ...]:
    return ties.tobytes(), *configs.values()
