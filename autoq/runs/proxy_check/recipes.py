"""Recipes to check a proxy on: from near chance to full precision, those that a search would offer and others."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from autoq.cost import CostModel, model_cost
from autoq.graph.sites import Site
from autoq.optimization.allocation.problem import AllocationProblem
from autoq.optimization.samplers.prior import AllocationPrior
from autoq.optimization.space import ResolvedSpace
from autoq.optimization.space.uniform_points import uniform_points
from autoq.recipe import SiteConfig, hash_sites
from autoq.sensitivity.table import SensitivityTable

UNIFORM, ALLOCATED, DISTURBED, MUTATED = "uniform", "allocated", "disturbed", "mutated"
ORIGINS = (UNIFORM, ALLOCATED, DISTURBED, MUTATED)
"""Where a recipe comes from: the same bits everywhere; an exact allocation of the sensitivities; one of sensitivities
that were multiplied by noise; a uniform point with some of its decisions made at random."""
FRONT = (UNIFORM, ALLOCATED)
"""Origins along the front; the others are off it."""

_HIGHEST_BITS = 6
"""Budgets go up to the cost of these bits everywhere: above, all recipes are as accurate as full precision."""
_STRENGTHS = (0.5, 4.0)
"""Least and greatest standard deviation of the logarithm of the noise."""
_SHARES = (0.03, 0.1, 0.3)
"""Of the decisions that a mutation draws again."""
_ATTEMPTS = 20
"""Draws for each recipe that is still wanted, before it is taken that there are no others."""


@dataclass(frozen=True)
class CheckedRecipe:
    """A recipe to measure.

    Attributes:
        id: ``w4a4``, ``allocated-7``.
        origin: one of ``ORIGINS``.
        sites: of the recipe.
        bops: its cost.
    """

    id: str
    origin: str
    sites: Mapping[str, SiteConfig]
    bops: int


def choose_recipes(
    sites: tuple[Site, ...], space: ResolvedSpace, table: SensitivityTable, count: int, seed: int
) -> list[CheckedRecipe]:
    """Distinct recipes, half of them along the front and half of them off it.

    Along the front: uniform points of one group, and exact allocations of the sensitivities for budgets from just
    above the cheapest recipe to uniform 6/6, even on a logarithmic scale. Off it: allocations of sensitivities
    multiplied by log-normal noise of any strength between two, for the same budgets, and uniform points up to 6/6 of
    which several shares of the decisions are drawn again.

    Args:
        sites: the model's.
        space: the recipes that are possible.
        table: sensitivities of all options of the space.
        count: how many recipes.
        seed: of the noise and the mutations.

    Returns:
        ``count`` of them, or fewer if the space has no more.
    """
    return _Chooser(sites, space, table, seed).choose(count)


class _Chooser:
    def __init__(
        self, sites: tuple[Site, ...], space: ResolvedSpace, sensitivities: SensitivityTable, seed: int
    ) -> None:
        self._sites, self._space = sites, space
        self._problem = AllocationProblem(CostModel(sites), space)
        most = model_cost(sites, space.sites_for(space.uniform_assignment(_HIGHEST_BITS, 0))).bops
        self._prior = AllocationPrior.of(self._problem, sensitivities, max(most, self._problem.minimum_cost))
        # Uniform points with more groups are named "w4a4 g8".
        self._plain = [(label, assignment) for label, assignment in uniform_points(space) if " " not in label]
        self._rng = np.random.default_rng(seed)
        self._found: dict[str, CheckedRecipe] = {}
        self._numbers: Counter[str] = Counter()

    def choose(self, count: int) -> list[CheckedRecipe]:
        along = (count + 1) // 2
        for label, assignment in self._plain[:along]:
            self._add(UNIFORM, assignment, label)
        self._allocate(along)
        # Mutations are as many as noisy allocations; where one kind has no more, the other fills up.
        rest = count - len(self._found)
        for origin, draw, wanted in (
            (DISTURBED, self._disturbed(), count - rest // 2),
            (MUTATED, self._mutated(), count),
            (DISTURBED, self._disturbed(), count),
        ):
            for _ in range(_ATTEMPTS * max(0, wanted - len(self._found))):
                if len(self._found) >= wanted:
                    break
                self._add(origin, next(draw))
        order = {origin: position for position, origin in enumerate(ORIGINS)}
        return sorted(self._found.values(), key=lambda recipe: (order[recipe.origin], recipe.bops))

    def _allocate(self, along: int) -> None:
        """Exact allocations until there are ``along`` recipes, at budgets that any number of first ones spreads."""
        for position in range(_ATTEMPTS * along):
            if len(self._found) >= along:
                return
            self._add(ALLOCATED, self._prior.allocate(self._prior.budget(position)).assignment)

    def _disturbed(self) -> Iterator[dict[str, Any]]:
        for position in itertools.count():
            strength = self._rng.uniform(*_STRENGTHS)  # of any strength at any budget
            table = [losses * self._rng.lognormal(0.0, strength, losses.shape) for losses in self._prior.table]
            yield self._problem.allocate(table, self._prior.budget(position), gap=1e-2).assignment

    def _mutated(self) -> Iterator[dict[str, Any]]:
        most = self._prior.limit
        plain = [self._space.sites_for(assignment) for _, assignment in self._plain]
        starts = [
            assignment
            for (_, assignment), sites in zip(self._plain, plain, strict=True)
            if model_cost(self._sites, sites).bops <= most
        ] or [self._plain[0][1]]
        while True:
            for share in _SHARES:
                assignment = dict(starts[int(self._rng.integers(len(starts)))])
                for decision in self._space.decisions:
                    if self._rng.random() < share:
                        assignment[decision.name] = decision.choices[int(self._rng.integers(len(decision.choices)))]
                yield assignment

    def _add(self, origin: str, assignment: Mapping[str, Any], label: str = "") -> None:
        sites = self._space.sites_for(assignment)
        key = hash_sites(sites)
        if key not in self._found:
            self._numbers[origin] += 1
            name = label or f"{origin}-{self._numbers[origin]}"
            self._found[key] = CheckedRecipe(name, origin, sites, model_cost(self._sites, sites).bops)
