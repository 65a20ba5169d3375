"""ProgressiveSampler with a prior, in a plain Optuna study."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.trial import FrozenTrial, Trial, TrialState

from autoq.optimization.samplers import AllocationPrior, ProgressiveSampler

from .small_priors import prior_of

Objective = Callable[[Trial], tuple[float, float]]


def objective_of(prior: AllocationPrior, seed: int = 7) -> Objective:
    """Losses that are sums as the prior has it, but for factors that it does not know."""
    problem, rng = prior.problem, np.random.default_rng(seed)
    losses = [np.where(np.isfinite(t), t, 9.0) * np.exp(rng.normal(0, 1.0)) for t in prior.table]
    sites = problem.site_losses(losses)

    def objective(trial: Trial) -> tuple[float, float]:
        params = {d.name: trial.suggest_categorical(d.name, d.choices) for d in problem.space.decisions}
        combinations = problem.combinations_of(params)
        cost = problem.cost(combinations)
        trial.set_constraint("bops", cost / prior.limit - 1)
        return cost, float(sum(loss[combination] for loss, combination in zip(sites, combinations, strict=True))) ** 1.2

    return objective


def search(prior: AllocationPrior, trials: int, seed: int = 0) -> optuna.Study:
    study = optuna.create_study(directions=["minimize"] * 2, sampler=ProgressiveSampler(seed, prior))
    study.optimize(objective_of(prior), n_trials=trials)
    return study


def allocations_of(prior: AllocationPrior) -> list[dict[str, Any]]:
    budgets = prior.first_budgets(20)
    found: list[dict[str, Any]] = []
    for budget in budgets:
        assignment = prior.problem.allocate(prior.table, budget, gap=1e-3).assignment
        if assignment not in found:
            found.append(assignment)
    return found


@pytest.mark.parametrize(("space", "infinite"), [("groups", 0.0), ("tied by site", 0.3), ("tied across sites", 0.0)])
def test_proposals_from_a_prior(space: str, infinite: float) -> None:
    prior = prior_of(space, infinite=infinite)
    study = search(prior, 45)
    params = [trial.params for trial in study.trials]
    allocations = allocations_of(prior)
    assert params[: len(allocations)] == allocations
    encoded = {prior.problem.combinations_of(each).tobytes() for each in params}
    assert len(encoded) == 45, "nothing is proposed twice"
    costs = [trial.values[0] for trial in study.trials]
    assert max(costs) <= prior.limit
    assert all(math.isfinite(_expected_loss(prior, each)) for each in params)


def _expected_loss(prior: AllocationPrior, params: dict[str, Any]) -> float:
    losses = prior.problem.site_losses(prior.table)
    combinations = prior.problem.combinations_of(params)
    return float(sum(loss[combination] for loss, combination in zip(losses, combinations, strict=True)))


def test_finds_more_than_allocations_alone() -> None:
    prior = prior_of("groups")
    study = search(prior, 80)
    found = [trial.values[1] for trial in study.trials]
    assert min(found) < 0.95 * min(found[: len(allocations_of(prior))])


def test_the_seed_decides() -> None:
    prior = prior_of("groups")
    first, again, other = ([t.params for t in search(prior, 26, seed).trials] for seed in (0, 0, 1))
    assert first == again != other
    assert first[:20] == other[:20], "allocations are the same"


def test_all_is_read_from_the_study() -> None:
    prior = prior_of("groups")
    study = search(prior, 24)
    twin = optuna.create_study(directions=["minimize"] * 2, sampler=ProgressiveSampler(0, prior))
    twin.add_trials(study.trials)
    for each in (study, twin):
        each.optimize(objective_of(prior), n_trials=3)
    assert [t.params for t in study.trials] == [t.params for t in twin.trials]


def test_allocations_that_others_have_evaluated_are_skipped() -> None:
    prior = prior_of("groups")
    allocations = allocations_of(prior)
    study = optuna.create_study(directions=["minimize"] * 2, sampler=ProgressiveSampler(0, prior))
    for index in (0, 2):
        study.enqueue_trial(allocations[index])
    study.optimize(objective_of(prior), n_trials=5)
    assert [t.params for t in study.trials] == [allocations[i] for i in (0, 2, 1, 3, 4)]


def test_allocations_that_fail_or_are_stopped_are_not_tried_again() -> None:
    prior = prior_of("groups")
    objective = objective_of(prior)

    def moody(trial: Trial) -> tuple[float, float]:
        values = objective(trial)
        if trial.number == 1:
            raise ValueError("a failure")
        return (values[0], math.nan) if trial.number == 3 else values

    study = optuna.create_study(directions=["minimize"] * 2, sampler=ProgressiveSampler(0, prior))
    study.optimize(moody, n_trials=6, catch=ValueError)
    failed = [trial.number for trial in study.trials if trial.state == TrialState.FAIL]
    assert failed == [1, 3]
    assert [t.params for t in study.trials] == allocations_of(prior)[:6]
    stopped = optuna.create_study(directions=["minimize"] * 2, sampler=ProgressiveSampler(0, prior))
    stopped.add_trials([_stopped(trial) for trial in study.trials[:4]])
    stopped.optimize(objective, n_trials=2)
    assert [t.params for t in stopped.trials] == allocations_of(prior)[:6]


def _stopped(trial: FrozenTrial) -> FrozenTrial:
    return optuna.trial.create_trial(state=TrialState.PRUNED, params=trial.params, distributions=trial.distributions)


def test_trials_of_unusable_combinations_do_not_harm() -> None:
    """Uniform points are evaluated whatever the sensitivities say, and may turn out finite."""
    prior = prior_of("groups", infinite=0.3)
    space = prior.problem.space
    study = optuna.create_study(directions=["minimize"] * 2, sampler=ProgressiveSampler(0, prior))
    for bits in (2, 3, 4):
        assert math.isinf(_expected_loss(prior, space.uniform_assignment(bits)))
        study.enqueue_trial(space.uniform_assignment(bits))
    study.optimize(objective_of(prior), n_trials=30)
    assert len({tuple(trial.params.values()) for trial in study.trials}) == 30
    assert all(math.isfinite(_expected_loss(prior, trial.params)) for trial in study.trials[3:])


def test_what_is_in_flight_is_neither_proposed_again_nor_crowded_around() -> None:
    prior = prior_of("groups")
    study = search(prior, 45)
    distributions = study.trials[-1].distributions
    seen = {prior.problem.combinations_of(trial.params).tobytes() for trial in study.trials}
    costs = []
    for _ in range(8):
        params = study.ask(distributions).params  # which runs from now on
        combinations = prior.problem.combinations_of(params)
        assert combinations.tobytes() not in seen
        seen.add(combinations.tobytes())
        costs.append(prior.problem.cost(combinations))
    assert len(set(costs)) > 4
