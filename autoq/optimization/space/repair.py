"""Repair of proposals: they are brought under the budgets before they are evaluated, as their cost is known."""

from __future__ import annotations

import random
from collections.abc import Mapping
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autoq.cost import KINDS, CostModel, Limits
from autoq.cost.activations import activation_bytes
from autoq.cost.kinds import ACTIVATIONS
from autoq.optimization.space.decisions import Decision, ResolvedSpace
from autoq.recipe import SiteConfig

IntArray = NDArray[np.int64]


class BudgetRepair:
    """Lowers randomly chosen bits and group counts, a step at a time, until all budgets are kept."""

    def __init__(self, costs: CostModel, space: ResolvedSpace, limits: Limits) -> None:
        """Prepare for one model, space and its budgets."""
        self._costs, self._space = costs, space
        self._sites = {site.name: site for site in costs.sites}
        self._most = {KINDS[name]: limit for name, limit in limits.most.items() if KINDS[name].is_sum}
        self._alive = limits.most.get(ACTIVATIONS.name)
        self._plans: dict[str, list[Any]] = {}
        for plan in space.plans:
            self._plans.setdefault(plan.site, []).append(plan)
        # Only these change the cost, and always in the same direction.
        self._cheapening = [decision for decision in space.decisions if decision.field in ("bits", "groups")]
        self._others = [decision for decision in space.decisions if decision.field not in ("bits", "groups")]

    def __call__(self, assignment: Mapping[str, Any], rng: random.Random) -> dict[str, Any]:
        """Make an assignment cheaper until it is within the budgets; the cheapest one if none is."""
        repaired = dict(assignment)
        configs = {name: self._config(name, repaired) for name in self._sites}
        parts = {name: self._parts(name, config) for name, config in configs.items()}
        total = np.sum(list(parts.values()), axis=0) + [self._costs.rest_cost(kind) for kind in self._most]
        lowerable = [decision for decision in self._cheapening if _lower_choices(decision, repaired)]
        while lowerable and not self._is_within(total, configs):
            position = rng.randrange(len(lowerable))
            decision = lowerable[position]
            below = _lower_choices(decision, repaired)
            repaired[decision.name] = max(below)
            if len(below) == 1:
                lowerable[position] = lowerable[-1]
                lowerable.pop()
            total = total + self._update_(parts, configs, decision, repaired)
        # With every bit and group at its least, only another scheme (one that needs no groups) can be cheaper.
        for decision in rng.sample(self._others, len(self._others)):
            if self._is_within(total, configs):
                break
            repaired[decision.name] = self._cheapest[decision.name]
            total = total + self._update_(parts, configs, decision, repaired)
        return repaired

    @cached_property
    def _cheapest(self) -> dict[str, Any]:
        return self._space.assignment_for(self._space.cheapest())

    def _is_within(self, total: IntArray, configs: Mapping[str, SiteConfig]) -> bool:
        """Tell whether totals keep all budgets of sums, and the recipe that of live activations."""
        if any(cost > limit for cost, limit in zip(total, self._most.values(), strict=True)):
            return False
        live = self._costs.live
        return self._alive is None or live is None or activation_bytes(live, configs) <= self._alive

    def _update_(
        self,
        parts: dict[str, IntArray],
        configs: dict[str, SiteConfig],
        decision: Decision,
        assignment: Mapping[str, Any],
    ) -> IntArray:
        """Cost again the sites that a decision sets; how much the totals have changed."""
        change = np.zeros(len(self._most), dtype=np.int64)
        for name in {site for site, _ in decision.targets}:
            configs[name] = self._config(name, assignment)
            now = self._parts(name, configs[name])
            change += now - parts[name]
            parts[name] = now
        return change

    def _config(self, name: str, assignment: Mapping[str, Any]) -> SiteConfig:
        return {plan.operand.name: plan.config(assignment) for plan in self._plans.get(name, ())}

    def _parts(self, name: str, config: SiteConfig) -> IntArray:
        """Return (sums,) the costs of one site that add up and are limited."""
        site = self._sites[name]
        return np.array([self._costs.site_cost(kind, site, config) for kind in self._most], dtype=np.int64)


def _lower_choices(decision: Decision, assignment: Mapping[str, Any]) -> list[int]:
    return [choice for choice in decision.choices if choice < assignment[decision.name]]
