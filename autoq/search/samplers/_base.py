"""What samplers that start from an ``AllocationPrior`` have in common."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.samplers import BaseSampler, RandomSampler
from optuna.trial import FrozenTrial, TrialState

from autoq.search.allocation.problem import AllocationProblem
from autoq.search.samplers.landscape import IntArray
from autoq.search.samplers.prior import AllocationPrior

FINISHED = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)
"""States of trials that are not to be proposed again."""
_MOST_REPEATS = 64
"""Recipes in a row that were evaluated before, after which all are taken to have been."""


class BasePriorSampler(BaseSampler):
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
        past = [t for t in study.get_trials(deepcopy=False, states=FINISHED) if search_space.keys() <= t.params.keys()]
        return self.problem.assignment(self.propose(past, np.random.default_rng((self._seed, trial.number))))

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """A random value, for parameters that are no decision of the space."""
        return self._independent.sample_independent(study, trial, param_name, param_distribution)

    def propose(self, past: Sequence[FrozenTrial], rng: np.random.Generator) -> IntArray:
        """(sites,) Options of the next recipe, given the finished trials; by default, the next of a fixed sequence."""
        del rng
        done = {self.options_of(trial).tobytes() for trial in past}
        affordable: IntArray | None = None
        for position in range(len(past) + _MOST_REPEATS):
            if position not in self._by_position:
                self._by_position[position] = self.at(position)
            options = self._by_position[position]
            if self.problem.bops(options) <= self._prior.budget_bops:
                affordable = options
                if options.tobytes() not in done:
                    return options
        return self._prior.allocate(self._prior.budget_bops).options if affordable is None else affordable

    def options_of(self, trial: FrozenTrial) -> IntArray:
        """(sites,) What a trial chose; parameters that are no decision of the space are left out."""
        return self.problem.options_of({d.name: trial.params[d.name] for d in self.problem.space.decisions})

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
