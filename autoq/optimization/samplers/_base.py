"""The base of samplers that start from an ``AllocationPrior``, and functions on configurations that they share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, RandomSampler
from optuna.trial import FrozenTrial, TrialState

from autoq.optimization.allocation.knapsack import IntArray
from autoq.optimization.allocation.problem import AllocationProblem
from autoq.optimization.samplers.prior import AllocationPrior

PROPOSED = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL, TrialState.RUNNING)
"""States of trials that are not to be proposed again. A running one without parameters is the one that is asked for."""
_MOST_REPEATS = 64
"""Recipes in a row that were evaluated before, after which all are taken to have been."""


class BasePriorSampler(BaseSampler):
    """Base of samplers of whole recipes that start from an ``AllocationPrior``.

    A subclass overrides ``at``, if it proposes a fixed sequence of recipes, or else ``propose``. Both give an array of
    shape (sites,): the combination of each site of the problem.

    Stateless: proposals depend on the prior, the seed, the trials, those in flight included, and the trial's number.
    """

    def __init__(self, seed: int, prior: AllocationPrior) -> None:
        """Determine all proposals by ``seed`` and ``prior``."""
        self._seed, self._prior = seed, prior
        self._independent = RandomSampler(seed=seed)
        self._by_position: dict[int, IntArray] = {}  # a cache: depends on the prior alone

    @property
    def problem(self) -> AllocationProblem:
        """The allocation problem of the prior."""
        return self._prior.problem

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:  # noqa: ARG002
        """List all decisions of the prior's space."""
        return {**self._prior.distributions}

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Propose a whole recipe."""
        past = [t for t in study.get_trials(deepcopy=False, states=PROPOSED) if search_space.keys() <= t.params.keys()]
        return self.problem.assignment(self.propose(past, np.random.default_rng((self._seed, trial.number))))

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """Draw a random value, for parameters that are no decision of the space."""
        return self._independent.sample_independent(study, trial, param_name, param_distribution)

    def propose(self, past: Sequence[FrozenTrial], rng: np.random.Generator) -> IntArray:
        """Propose the next recipe, (sites,), given all trials: by default, the next new one in sequence."""
        del rng
        done = {self.combinations_of(trial).tobytes() for trial in past}
        affordable: IntArray | None = None
        for position in range(len(past) + _MOST_REPEATS):
            if position not in self._by_position:
                self._by_position[position] = self.at(position)
            combinations = self._by_position[position]
            if self._prior.admits(combinations):
                affordable = combinations
                if combinations.tobytes() not in done:
                    return combinations
        return self._prior.allocate(self._prior.limit).combinations if affordable is None else affordable

    def combinations_of(self, trial: FrozenTrial) -> IntArray:
        """Find the configuration, (sites,), of a trial; parameters that are no decision of the space are left out."""
        return self.problem.combinations_of({d.name: trial.params[d.name] for d in self.problem.space.decisions})

    def at(self, position: int) -> IntArray:
        """Return the recipe, (sites,), with this number in the sequence."""
        raise NotImplementedError


def operand_columns(problem: AllocationProblem) -> list[tuple[int, int]]:
    """Find for each operand of the problem the number of its site, and its column in ``SiteCombinations.options``."""
    found = {
        (site.site, operand): (row, column)
        for row, site in enumerate(problem.sites)
        for column, operand in enumerate(site.configs[0])
    }
    return [found[operand] for operand in problem.operands]


def with_options(
    problem: AllocationProblem, row: int, combinations: IntArray, wanted: Sequence[int | None]
) -> IntArray | None:
    """Change one site's operands to other options, with its ties as they are.

    Args:
        problem: whose configurations these are.
        row: the number of the site.
        combinations: (sites,) the configuration to change; it is copied.
        wanted: the option of each operand of the site.

    Returns:
        (sites,) or None where the site has no such combination.
    """
    site = problem.sites[row]
    same = (site.options == np.array(wanted)).all(1) & (site.ties == site.ties[combinations[row]]).all(1)
    if not same.any():
        return None
    changed = combinations.copy()
    changed[row] = int(np.argmax(same))
    return changed
