"""The sampler of exact allocations."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from autoq.optimization.samplers.ilp import IlpSampler
from autoq.recipe import SiteConfig

from .small_priors import SPACES, prior_of, proposals

IntArray = NDArray[np.int64]


@pytest.mark.parametrize("space", SPACES)
def test_ilp_allocates_for_one_budget_after_the_other(space: str) -> None:
    prior = prior_of(space, infinite=0.2)
    found = proposals(IlpSampler(0, prior), prior, 8)
    expected: list[list[int]] = []
    position = 0
    while len(expected) < 8:
        combinations = prior.problem.allocate(prior.table, prior.budget(position), gap=1e-3).combinations.tolist()
        if combinations not in expected:
            expected.append(combinations)
        position += 1
    assert [row.tolist() for row in found] == expected
    assert max(prior.problem.cost(row) for row in found) <= prior.limit


Recipe = dict[str, SiteConfig]
