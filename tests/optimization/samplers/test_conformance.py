"""Optuna's own tests of samplers, as far as they apply to samplers of categorical parameters with two objectives.

The tests make studies with one objective; here each of them gets two, a cost of one and the value of the test.

Left out, because no sampler here proposes numbers together with the others (``infer_relative_search_space`` never
offers them, and Optuna draws them one by one): ``test_sample_relative_numerical`` and ``test_sample_relative_mixed``.
``SingleOnlySamplerTestCase`` is for samplers that refuse two objectives. Samplers that start from a prior know the one
space that it is of: the tests of other parameters apply to them, ``test_sample_relative_categorical`` does not.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.distributions import CategoricalDistribution
from optuna.samplers import BaseSampler
from optuna.testing.pytest_samplers import (
    BasicSamplerTestCase,
    MultiObjectiveSamplerTestCase,
    RelativeSamplerTestCase,
)
from optuna.trial import FrozenTrial, Trial

from autoq.optimization.samplers import ProgressiveSampler
from autoq.optimization.samplers.greedy import GreedySampler
from autoq.optimization.samplers.ilp import IlpSampler
from autoq.optimization.samplers.lampq import LampQSampler
from autoq.optimization.samplers.uniform import UniformSampler

from .small_priors import prior_of


class TwoObjectives(optuna.Study):
    """A study of two objectives that takes and gives one."""

    def optimize(self, func: Callable[[Trial], float], *args: Any, **settings: Any) -> None:
        super().optimize(lambda trial: (1.0, func(trial)), *args, **settings)

    def tell(self, trial: Any, values: Any = None, **settings: Any) -> FrozenTrial:
        return super().tell(trial, None if values is None else (1.0, values), **settings)

    def add_trial(self, trial: FrozenTrial) -> None:
        if trial.values is not None and len(trial.values) == 1:
            trial.values = [1.0, *trial.values]
        super().add_trial(trial)

    @property
    def best_value(self) -> float:
        return min(trial.values[1] for trial in self.trials if trial.values is not None)


@pytest.fixture(autouse=True)
def _two_objectives(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    create = optuna.create_study

    def create_study(sampler: BaseSampler, directions: list[str] | None = None) -> optuna.Study:
        study = create(directions=directions or ["minimize", "minimize"], sampler=sampler)
        if directions is None:
            study.__class__ = TwoObjectives
        return study

    monkeypatch.setattr(optuna, "create_study", create_study)
    monkeypatch.setattr(optuna.study, "create_study", create_study)
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    yield
    optuna.logging.set_verbosity(verbosity)


class ConformanceTestCase(BasicSamplerTestCase, RelativeSamplerTestCase, MultiObjectiveSamplerTestCase):
    """All that applies."""

    test_sample_relative_numerical = None
    test_sample_relative_mixed = None


class TestProgressiveSampler(ConformanceTestCase):
    @pytest.fixture
    def sampler(self) -> Callable[[], BaseSampler]:
        return lambda: ProgressiveSampler(seed=0)

    def test_numbers_are_left_to_independent_sampling(self, sampler: Callable[[], BaseSampler]) -> None:
        """Why the tests of relative numbers do not apply."""
        study = optuna.create_study(sampler=sampler())

        def objective(trial: Trial) -> float:
            return (
                trial.suggest_float("x", 0, 1) + trial.suggest_int("y", 0, 9) + trial.suggest_categorical("z", (1, 2))
            )

        study.optimize(objective, n_trials=3)
        frozen = study.ask()._get_latest_trial()
        offered = study.sampler.infer_relative_search_space(study, frozen)
        assert offered == {"z": CategoricalDistribution((1, 2))}
        space = study.trials[0].distributions
        assert study.sampler.sample_relative(study, frozen, space).keys() == {"z"}
        numbers = {name: space[name] for name in ("x", "y")}
        assert study.sampler.sample_relative(study, frozen, numbers) == {}


PRIOR_SAMPLERS: dict[str, Callable[[], BaseSampler]] = {
    "progressive": lambda: ProgressiveSampler(0, prior_of("plain")),
    "lampq": lambda: LampQSampler(0, prior_of("plain")),
    "ilp": lambda: IlpSampler(0, prior_of("plain")),
    "greedy": lambda: GreedySampler(0, prior_of("plain")),
    "uniform": lambda: UniformSampler(0, prior_of("plain")),
}


@pytest.fixture(params=sorted(PRIOR_SAMPLERS))
def with_prior(request: pytest.FixtureRequest) -> Callable[[], BaseSampler]:
    return PRIOR_SAMPLERS[request.param]


class TestSamplersWithPriors:
    """What Optuna's tests ask of relative samplers, of the parameters that a prior is of."""

    @pytest.fixture
    def sampler(self, with_prior: Callable[[], BaseSampler]) -> Callable[[], BaseSampler]:
        return with_prior

    def test_relative_parameters_are_plain_choices(self, sampler: Callable[[], BaseSampler]) -> None:
        study = optuna.create_study(sampler=sampler())
        for _ in range(5):
            trial = study.ask()
            frozen = trial._get_latest_trial()
            space = study.sampler.infer_relative_search_space(study, frozen)
            params = study.sampler.sample_relative(study, frozen, space)
            assert params.keys() == space.keys()
            for name, distribution in space.items():
                assert params[name] in distribution.choices  # type: ignore[attr-defined]
                assert not isinstance(params[name], np.generic)
                assert trial.suggest_categorical(name, distribution.choices) == params[name]  # type: ignore[attr-defined]
            study.tell(trial, math.exp(-trial.number))

    @pytest.mark.parametrize("n_jobs", [1, 2])
    def test_other_parameters_are_drawn_one_by_one(self, sampler: Callable[[], BaseSampler], n_jobs: int) -> None:
        study = optuna.create_study(sampler=sampler())

        def objective(trial: Trial) -> float:
            value = trial.suggest_float("x", 0, 1) + trial.suggest_int("y", 1, 9, log=True)
            for decision in prior_of("plain").problem.space.decisions:
                trial.suggest_categorical(decision.name, decision.choices)
            return value + trial.suggest_categorical("z", (0, 1))

        study.optimize(objective, n_trials=4, n_jobs=n_jobs)
        assert len({trial.params["x"] for trial in study.trials}) == 4
