"""The base of samplers that start from a prior, and what they share."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import optuna
import pytest
from numpy.typing import NDArray

from autoq.optimization.samplers import AllocationPrior
from autoq.optimization.samplers._base import BasePriorSampler, operand_columns, with_options
from autoq.recipe import SiteConfig

from .small_priors import SPACES, prior_of, problem_of, proposals, random_combinations

IntArray = NDArray[np.int64]


class Listed(BasePriorSampler):
    """Proposes what it is given, then the last of it."""

    def __init__(self, prior: AllocationPrior, listed: list[IntArray]) -> None:
        super().__init__(0, prior)
        self.listed, self.asked = listed, 0

    def at(self, position: int) -> IntArray:
        self.asked += 1
        return self.listed[min(position, len(self.listed) - 1)]


def test_a_sequence_is_gone_through_without_repeats() -> None:
    prior = prior_of("groups")
    prior = replace(prior, limit=prior.problem.maximum_cost)
    first, second, third = random_combinations(prior.problem, np.random.default_rng(0), 3)
    sampler = Listed(prior, [first, second, first, first, third])
    found = proposals(sampler, prior, 6)
    assert [row.tolist() for row in found] == [row.tolist() for row in (first, second, third, third, third, third)]
    assert sampler.asked < 6 + 5 + 65, "a position is worked out once, and an end is seen"


def test_other_trials_are_skipped() -> None:
    prior = prior_of("groups")
    listed = list(random_combinations(prior.problem, np.random.default_rng(0), 3))
    sampler = Listed(prior, listed)
    study = optuna.create_study(directions=["minimize"] * 2, sampler=sampler)
    kinds = sampler.infer_relative_search_space(study, study.ask())
    assert list(kinds) == [decision.name for decision in prior.problem.space.decisions]
    states = (optuna.trial.TrialState.PRUNED, optuna.trial.TrialState.COMPLETE)
    for combinations, state in zip(listed, states, strict=False):
        params = prior.problem.assignment(combinations)
        values = [1.0, 1.0] if state == optuna.trial.TrialState.COMPLETE else None
        study.add_trial(optuna.trial.create_trial(state=state, params=params, distributions=kinds, values=values))
    params = study.ask(kinds).params
    assert prior.problem.combinations_of(params).tolist() == listed[2].tolist()


@pytest.mark.parametrize("space", SPACES)
def test_operands_are_found_in_their_sites(space: str) -> None:
    problem = problem_of(space)
    for operand, (index, column) in zip(problem.operands, operand_columns(problem), strict=True):
        assert problem.sites[index].site == operand[0]
        assert list(problem.sites[index].configs[0])[column] == operand[1]


@pytest.mark.parametrize("space", SPACES)
def test_combinations_with_other_options(space: str) -> None:
    """Against a search of all combinations; what is tied to other sites stays."""
    problem, rng = problem_of(space), np.random.default_rng(0)
    missing = 0
    for combinations in random_combinations(problem, rng, 15):
        index = int(rng.integers(len(problem.sites)))
        site = problem.sites[index]
        wanted = [int(rng.integers(site.options[:, c].max() + 1)) for c in range(len(site.configs[0]))]
        expected = [
            combination
            for combination, (options, ties) in enumerate(zip(site.options, site.ties, strict=True))
            if list(options) == wanted and list(ties) == list(site.ties[combinations[index]])
        ]
        moved = with_options(problem, index, combinations, wanted)
        missing += moved is None
        assert (moved is None) == (not expected)
        if moved is not None:
            assert moved[index] == expected[0]
            assert np.delete(moved, index).tolist() == np.delete(combinations, index).tolist()
    assert (missing > 0) == space.startswith("tied")


Recipe = dict[str, SiteConfig]
