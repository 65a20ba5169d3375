"""The greedy sampler against the sorted list of options gone through one by one."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from autoq.cost import model_cost
from autoq.optimization.samplers import AllocationPrior
from autoq.optimization.samplers.greedy import GreedySampler
from autoq.recipe import SiteConfig
from tests.optimization.synthetic_sites import vit

from .small_priors import prior_of, proposals

IntArray = NDArray[np.int64]


Recipe = dict[str, SiteConfig]


def greedy_way(prior: AllocationPrior) -> list[tuple[int, Recipe]]:
    """What AIMET does, on recipes: least lossy first; taken where the model gets cheaper."""
    problem, sites = prior.problem, vit()
    loss = {
        (*operand, config): value
        for operand, configs, values in zip(problem.operands, problem.options, prior.table, strict=True)
        for config, value in zip(configs, values, strict=True)
    }
    offered = {site.site: site.configs for site in problem.sites}
    bops = {site.site: site.cost for site in problem.sites}

    def worst_first(name: str) -> SiteConfig:
        combinations = range(len(offered[name]))
        lost = [sum(loss[name, operand, c] for operand, c in offered[name][o].items()) for o in combinations]
        return offered[name][min(combinations, key=lambda o: (lost[o], bops[name][o]))]

    recipe = {name: dict(worst_first(name)) for name in offered}
    way = [(model_cost(sites, recipe).bops, recipe)]
    for (name, operand, config), value in sorted(loss.items(), key=lambda site: site[1]):
        changed = {**recipe, name: {**recipe[name], operand: config}}
        cheaper = model_cost(sites, changed).bops < way[-1][0]
        if math.isfinite(value) and changed[name] in offered[name] and cheaper:
            recipe = changed
            way.append((model_cost(sites, recipe).bops, recipe))
    return way


@pytest.mark.parametrize("space", ["plain", "groups"])
@pytest.mark.parametrize("infinite", [0.0, 0.3])
def test_greedy_takes_the_least_sensitive_first(space: str, infinite: float) -> None:
    prior = prior_of(space, infinite=infinite)
    sampler, way = GreedySampler(0, prior), greedy_way(prior)
    assert len(way) > 10
    for position in range(12):
        kept = [recipe for cost, recipe in way if cost <= prior.budget(position)]
        expected = kept[0] if kept else way[-1][1]
        assert prior.problem.space.sites_for(prior.problem.assignment(sampler.at(position))) == expected


def test_greedy_changes_tied_bits_together() -> None:
    prior = prior_of("tied by site")
    found = proposals(GreedySampler(0, prior), prior, 6)
    assert len({row.tobytes() for row in found}) == 6
    assert all(prior.problem.cost(row) <= prior.limit for row in found)
