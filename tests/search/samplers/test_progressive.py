"""ProgressiveSampler: what it expects of a proposal, and its proposals from a prior in a plain Optuna study."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from statistics import NormalDist
from typing import Any

import numpy as np
import optuna
import pytest
from numpy.typing import NDArray
from optuna.trial import FrozenTrial, Trial, TrialState
from scipy.special import erfcx

from autoq.search.samplers import AllocationPrior, ProgressiveSampler
from autoq.search.samplers.landscape import Landscape, from_prior
from autoq.search.samplers.progressive import _expected_gain

from .small_priors import prior_of

FloatArray = NDArray[np.float64]
LIMIT, LEAST, BEYOND = 100.0, 20.0, 0.5
STEP = 0.25
FRONT_COST = np.array([30.0, 45.0, 46.0, 80.0])
FRONT_LOG = np.array([1.0, 0.2, -0.5, -2.0])


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    yield
    optuna.logging.set_verbosity(verbosity)


def ranging(limit: float = LIMIT, least: float = LEAST) -> Landscape:
    """A landscape of which nothing but the range of costs matters."""
    return Landscape(**{**vars(from_prior(prior_of("plain"))), "limit": limit, "least": least})


def gain(cost: list[float], mean: list[float], deviation: list[float]) -> FloatArray:
    arrays = (np.array(values, dtype=np.float64) for values in (cost, mean, deviation))
    return _expected_gain(ranging(), FRONT_COST, FRONT_LOG, *arrays)


def area(cost: float, logarithm: float) -> float:
    """What one point adds to the staircase, one narrow step after the other."""
    total = 0.0
    for edge in np.arange(LEAST, LIMIT * (1 + BEYOND), STEP) + STEP / 2:
        if edge < cost:
            continue
        below = FRONT_LOG[edge >= FRONT_COST]
        height = below.min() if len(below) else FRONT_LOG.max() + 1
        total += STEP * max(height - logarithm, 0)
    return total


@pytest.mark.parametrize("cost", [20.0, 25.0, 30.0, 45.5, 60.0, 99.0])  # multiples of the steps
@pytest.mark.parametrize(("mean", "deviation"), [(0.0, 0.3), (-1.0, 1.0), (-3.0, 0.1), (1.2, 0.5)])
def test_the_gain_is_the_expected_area(cost: float, mean: float, deviation: float) -> None:
    # Equal parts of the normal distribution, instead of draws.
    quantiles = np.array([mean + deviation * NormalDist().inv_cdf((i + 0.5) / 400) for i in range(400)])
    levels = np.linspace(quantiles.min(), quantiles.max(), 60)
    areas = np.interp(quantiles, levels, [area(cost, float(level)) for level in levels])
    expected = areas.mean()
    assert math.exp(gain([cost], [mean], [deviation])[0]) == pytest.approx(expected, rel=0.02, abs=0.02)


def test_draws_agree_as_well() -> None:
    rng = np.random.default_rng(0)
    costs, means, deviations = [22.0, 50.0, 90.0], [0.5, -0.6, -1.5], [0.4, 0.4, 0.8]
    for cost, mean, deviation, found in zip(costs, means, deviations, gain(costs, means, deviations), strict=True):
        draws = [area(cost, draw) for draw in rng.normal(mean, deviation, 100)]
        assert math.exp(found) == pytest.approx(np.mean(draws), abs=4 * np.std(draws) / math.sqrt(100))


def test_far_from_any_improvement_gains_are_still_told_apart() -> None:
    means = [float(mean) for mean in range(-4, 200, 2)]
    found = gain([60.0] * len(means), means, [0.1] * len(means))
    assert np.isfinite(found).all()
    assert (np.diff(found) < 0).all()


def test_the_tail_is_that_of_the_normal_distribution() -> None:
    """By the scaled complementary error function, which does not cancel; the tail's leading term is a tenth more."""
    z = np.linspace(-1, -60, 200)
    mills = math.sqrt(math.pi / 2) * erfcx(-z / math.sqrt(2))
    exact = -(z**2) / 2 - math.log(2 * math.pi) / 2 + np.log1p(z * mills)
    found = _expected_gain(
        *(ranging(least=10.0), np.array([10.0]), np.array([-0.5]), np.full(200, 50.0)),
        *(-0.5 - 0.1 * z, np.full(200, 0.1)),
    )
    np.testing.assert_allclose(found - math.log(100 * 0.1), exact, atol=0.13)
    np.testing.assert_allclose(found[z > -4.9] - math.log(100 * 0.1), exact[z > -4.9], atol=1e-6)


def test_cheaper_and_better_gains_more() -> None:
    assert (np.diff(gain([50.0, 60.0, 90.0, 110.0, 149.0], [-2.5] * 5, [0.2] * 5)) < 0).all()
    assert (np.diff(gain([60.0] * 4, [-3.0, -2.0, -1.0, 0.0], [0.2] * 4)) < 0).all()
    likely, unlikely = gain([60.0] * 2, [0.0] * 2, [1.0, 0.1])
    assert likely > unlikely, "what is open may be good"


def test_nothing_is_gained_where_costs_end() -> None:
    found = gain([99.0, 151.0, 1000.0], [3.0, -30.0, -30.0], [0.1, 1.0, 1.0])
    assert found[0] > -math.inf == found[1] == found[2]


def test_the_front_beyond_the_limit_is_nothing_to_beat() -> None:
    candidates = np.array([50.0, 90.0]), np.array([-1.0, -2.5]), np.array([0.3, 0.3])
    more = np.append(FRONT_COST, [101.0, 140.0]), np.append(FRONT_LOG, [-3.0, -5.0])
    np.testing.assert_array_equal(
        _expected_gain(ranging(), *more, *candidates), _expected_gain(ranging(), FRONT_COST, FRONT_LOG, *candidates)
    )
    nothing_within = _expected_gain(ranging(), np.array([101.0]), np.array([0.0]), *candidates)
    assert np.argmax(nothing_within) == 0, "the cheapest first, until something is within"


Objective = Callable[[Trial], tuple[float, float]]


def objective_of(prior: AllocationPrior, seed: int = 7) -> Objective:
    """Losses that are sums as the prior has it, but for factors that it does not know."""
    problem, rng = prior.problem, np.random.default_rng(seed)
    losses = [np.where(np.isfinite(t), t, 9.0) * np.exp(rng.normal(0, 1.0)) for t in prior.table]
    sites = problem.site_losses(losses)

    def objective(trial: Trial) -> tuple[float, float]:
        params = {d.name: trial.suggest_categorical(d.name, d.choices) for d in problem.space.decisions}
        options = problem.options_of(params)
        cost = problem.bops(options)
        trial.set_constraint("bops", cost / prior.budget_bops - 1)
        return cost, float(sum(loss[option] for loss, option in zip(sites, options, strict=True))) ** 1.2

    return objective


def search(prior: AllocationPrior, trials: int, seed: int = 0) -> optuna.Study:
    study = optuna.create_study(directions=["minimize"] * 2, sampler=ProgressiveSampler(seed, prior))
    study.optimize(objective_of(prior), n_trials=trials)
    return study


def seeds_of(prior: AllocationPrior) -> list[dict[str, Any]]:
    budgets = sorted((prior.budget(position) for position in range(20)), reverse=True)
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
    seeds = seeds_of(prior)
    assert params[: len(seeds)] == seeds
    encoded = {prior.problem.options_of(each).tobytes() for each in params}
    assert len(encoded) == 45, "nothing is proposed twice"
    costs = [trial.values[0] for trial in study.trials]
    assert max(costs) <= prior.budget_bops
    assert all(math.isfinite(_expected_loss(prior, each)) for each in params)


def _expected_loss(prior: AllocationPrior, params: dict[str, Any]) -> float:
    losses = prior.problem.site_losses(prior.table)
    options = prior.problem.options_of(params)
    return float(sum(loss[option] for loss, option in zip(losses, options, strict=True)))


def test_finds_more_than_allocations_alone() -> None:
    prior = prior_of("groups")
    study = search(prior, 80)
    found = [trial.values[1] for trial in study.trials]
    assert min(found) < 0.95 * min(found[: len(seeds_of(prior))])


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


def test_seeds_that_others_have_evaluated_are_skipped() -> None:
    prior = prior_of("groups")
    seeds = seeds_of(prior)
    study = optuna.create_study(directions=["minimize"] * 2, sampler=ProgressiveSampler(0, prior))
    for index in (0, 2):
        study.enqueue_trial(seeds[index])
    study.optimize(objective_of(prior), n_trials=5)
    assert [t.params for t in study.trials] == [seeds[i] for i in (0, 2, 1, 3, 4)]


def test_seeds_that_fail_or_are_stopped_are_not_tried_again() -> None:
    prior = prior_of("groups")
    objective = objective_of(prior)

    def moody(trial: Trial) -> tuple[float, float]:
        values = objective(trial)
        if trial.number == 1:
            raise ValueError("no luck")
        return (values[0], math.nan) if trial.number == 3 else values

    study = optuna.create_study(directions=["minimize"] * 2, sampler=ProgressiveSampler(0, prior))
    study.optimize(moody, n_trials=6, catch=ValueError)
    failed = [trial.number for trial in study.trials if trial.state == TrialState.FAIL]
    assert failed == [1, 3]
    assert [t.params for t in study.trials] == seeds_of(prior)[:6]
    stopped = optuna.create_study(directions=["minimize"] * 2, sampler=ProgressiveSampler(0, prior))
    stopped.add_trials([_stopped(trial) for trial in study.trials[:4]])
    stopped.optimize(objective, n_trials=2)
    assert [t.params for t in stopped.trials] == seeds_of(prior)[:6]


def _stopped(trial: FrozenTrial) -> FrozenTrial:
    return optuna.trial.create_trial(state=TrialState.PRUNED, params=trial.params, distributions=trial.distributions)


def test_trials_of_unusable_options_do_not_harm() -> None:
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
