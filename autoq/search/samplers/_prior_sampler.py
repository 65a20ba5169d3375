"""What samplers that start from an ``AllocationPrior`` have in common."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.samplers import BaseSampler, RandomSampler
from optuna.trial import FrozenTrial, TrialState

from autoq.search.allocation import AllocationProblem
from autoq.search.samplers.landscape import IntArray
from autoq.search.samplers.prior import AllocationPrior

_MOST_REPEATS = 64
"""Recipes in a row that were evaluated before, after which all are taken to have been."""


class PriorSampler(BaseSampler):
    """A sampler of whole recipes that starts from an ``AllocationPrior``; subclasses say what ``propose`` does.

    Stateless: proposals depend on the prior, the seed, the trials and the trial's number.
    """

    def __init__(self, seed: int, prior: AllocationPrior) -> None:
        """Determine all proposals by ``seed`` and ``prior``."""
        self._seed, self._prior = seed, prior
        self._independent = RandomSampler(seed=seed)
        self._by_position: dict[int, IntArray] = {}  # not state: what the prior alone gives

    @property
    def problem(self) -> AllocationProblem:
        """What is allocated."""
        return self._prior.problem

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:  # noqa: ARG002
        """All decisions of the prior's space."""
        return {d.name: CategoricalDistribution(d.choices) for d in self.problem.space.decisions}

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """A whole recipe."""
        past = [
            t
            for t in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED))
            if search_space.keys() <= t.params.keys()
        ]
        return self.problem.assignment(self.propose(past, np.random.default_rng((self._seed, trial.number))))

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """A random value, for parameters that are no decision of the space."""
        return self._independent.sample_independent(study, trial, param_name, param_distribution)

    def propose(self, past: Sequence[FrozenTrial], rng: np.random.Generator) -> IntArray:
        """(sites,) Options of the next recipe, given the finished trials; by default, the next of a fixed sequence."""
        del rng
        done = {self.problem.options_of(trial.params).tobytes() for trial in past}
        position = repeats = 0
        while True:
            if position not in self._by_position:
                self._by_position[position] = self.at(position)
            repeats += 1
            if self._by_position[position].tobytes() not in done or repeats > len(past) + _MOST_REPEATS:
                return self._by_position[position]
            position += 1

    def at(self, position: int) -> IntArray:
        """(sites,) Options of the recipe with this number in the sequence."""
        raise NotImplementedError


def places_of(problem: AllocationProblem) -> list[tuple[int, int]]:
    """For each operand the index of its site, and its column there."""
    found = {
        (site.site, operand): (index, column)
        for index, site in enumerate(problem.sites)
        for column, operand in enumerate(site.configs[0])
    }
    return [found[operand] for operand in problem.operands]


def with_entries(
    problem: AllocationProblem, index: int, options: IntArray, wanted: Sequence[int | None]
) -> IntArray | None:
    """The same with other configurations of one site's operands; None where there is no such option."""
    site = problem.sites[index]
    same = (site.operand_options == np.array(wanted)).all(1) & (site.ties == site.ties[options[index]]).all(1)
    if not same.any():
        return None
    moved = options.copy()
    moved[index] = int(np.argmax(same))
    return moved
