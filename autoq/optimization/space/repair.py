"""Repair of proposals: they are brought under the budget before they are evaluated, as their cost is known."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

from autoq.cost import site_cost
from autoq.graph.sites import Site
from autoq.optimization.space.decisions import Decision, ResolvedSpace


class BudgetRepair:
    """Lowers randomly chosen bits and group counts, a step at a time, until the budget is kept."""

    def __init__(self, sites: Sequence[Site], space: ResolvedSpace, budget_bops: int) -> None:
        """Prepare for one model, space and budget."""
        self._sites = {site.name: site for site in sites if site.macs}
        self._space = space
        self._budget = budget_bops
        self._plans: dict[str, list[Any]] = {}
        for plan in space.plans:
            self._plans.setdefault(plan.site, []).append(plan)
        # Only these change the cost, and always in the same direction.
        self._cheapening = [decision for decision in space.decisions if decision.field in ("bits", "groups")]
        self._others = [decision for decision in space.decisions if decision.field not in ("bits", "groups")]

    def __call__(self, assignment: Mapping[str, Any], rng: random.Random) -> dict[str, Any]:
        """Make an assignment cheaper until it is within the budget; the cheapest one if none is."""
        repaired = dict(assignment)
        costs = {name: self._site_bops(name, repaired) for name in self._sites}
        total = sum(costs.values())
        lowerable = [decision for decision in self._cheapening if _lower_choices(decision, repaired)]
        while total > self._budget and lowerable:
            position = rng.randrange(len(lowerable))
            decision = lowerable[position]
            below = _lower_choices(decision, repaired)
            repaired[decision.name] = max(below)
            if len(below) == 1:
                lowerable[position] = lowerable[-1]
                lowerable.pop()
            total += self._update_(costs, decision, repaired)
        # With every bit and group at its least, only another scheme (one that needs no groups) can be cheaper.
        for decision in rng.sample(self._others, len(self._others)) if total > self._budget else ():
            if total > self._budget:
                repaired[decision.name] = self._cheapest[decision.name]
                total += self._update_(costs, decision, repaired)
        return repaired

    @cached_property
    def _cheapest(self) -> dict[str, Any]:
        return self._space.assignment_for(self._space.cheapest())

    def _update_(self, costs: dict[str, int], decision: Decision, assignment: Mapping[str, Any]) -> int:
        """Cost again the sites that a decision sets; how much the total has changed."""
        change = 0
        for name in {site for site, _ in decision.targets} & costs.keys():
            bops = self._site_bops(name, assignment)
            change += bops - costs[name]
            costs[name] = bops
        return change

    def _site_bops(self, name: str, assignment: Mapping[str, Any]) -> int:
        config = {plan.operand.name: plan.config(assignment) for plan in self._plans.get(name, ())}
        cost = site_cost(self._sites[name], config)
        return cost.bops + cost.group_bops


def _lower_choices(decision: Decision, assignment: Mapping[str, Any]) -> list[int]:
    return [choice for choice in decision.choices if choice < assignment[decision.name]]
