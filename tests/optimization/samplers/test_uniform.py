"""The sampler of uniform recipes."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from numpy.typing import NDArray

from autoq.optimization.samplers.uniform import UniformSampler
from autoq.recipe import SiteConfig

from .small_priors import prior_of

IntArray = NDArray[np.int64]


@pytest.mark.parametrize("space", ["plain", "groups", "tied by site"])
def test_uniform_mixes_nothing(space: str) -> None:
    prior = prior_of(space)
    problem, sampler = prior.problem, UniformSampler(0, prior)
    widths, groups = (2, 3, 4, 6, 8), (1,) if space == "plain" else (1, 4)
    count = len(widths) ** 2 * len(groups)
    found = []
    for position in range(count):
        recipe = problem.space.sites_for(problem.assignment(sampler.at(position)))
        weights = {c.bits for operands in recipe.values() for name, c in operands.items() if name == "weight"}
        others = {c.bits for operands in recipe.values() for name, c in operands.items() if name != "weight"}
        grouped = {c.groups for operands in recipe.values() for c in operands.values() if c.scheme == "instance_groups"}
        assert len(weights) == len(others) == 1
        assert len(grouped) <= 1
        found.append((weights.pop(), others.pop(), grouped.pop() if grouped else 1))
    if space == "tied by site":
        assert all(w == a for w, a, _ in found), "there is nothing in between"
    else:
        assert sorted(found) == sorted(product(widths, widths, groups))
    assert found[: len(widths)] == [(bits, bits, 1) for bits in widths], "equal ones first"
    assert (sampler.at(count + 5) == sampler.at(count - 1)).all()


Recipe = dict[str, SiteConfig]
