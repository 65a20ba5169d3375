"""Configurations as arrays: costs, losses and parameters against the problem and the study that they come from."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from optuna.distributions import CategoricalDistribution
from optuna.trial import FrozenTrial, create_trial

from autoq.cost import model_cost
from autoq.optimization.samplers.additive_model import AdditiveModel, model_from_prior, model_from_study
from tests.optimization.synthetic_sites import vit

from .small_priors import SPACES, prior_of, random_combinations

FINEST = 1e-9


@pytest.mark.parametrize("space", SPACES)
@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), infinite=st.sampled_from([0.0, 0.3]))
@example(seed=30381844, infinite=0.3)  # the first option of all is unusable
def test_costs_and_losses_are_those_of_the_problem(space: str, seed: int, infinite: float) -> None:
    prior = prior_of(space, seed, infinite)
    problem, model = prior.problem, model_from_prior(prior)
    combinations = random_combinations(problem, np.random.default_rng(seed), 5)
    losses = problem.site_losses(prior.table)
    for row, cost, options in zip(combinations, model.costs(combinations), model.options(combinations), strict=True):
        loss = sum(site[combination] for site, combination in zip(losses, row, strict=True))
        # Exactly: costs are whole numbers that a float can hold.
        assert cost == (problem.cost(row) if np.isfinite(loss) else np.inf)
        assert problem.cost(row) == model_cost(vit(), problem.space.sites_for(problem.assignment(row))).bops
        assert model.loss[options].sum() == pytest.approx(loss, abs=FINEST * len(options))
        assert len(set(options)) == len(problem.operands), "every operand has options of its own"


@pytest.mark.parametrize("space", SPACES)
def test_infinite_losses_make_combinations_infinitely_dear(space: str) -> None:
    prior = prior_of(space, infinite=0.4)
    model = model_from_prior(prior)
    unusable = 0
    for row, (site, loss) in enumerate(zip(prior.problem.sites, prior.problem.site_losses(prior.table), strict=True)):
        count = len(site.cost)
        assert (np.isfinite(model.cost[row, :count]) == np.isfinite(loss)).all()
        assert np.isinf(model.cost[row, count:]).all()
        np.testing.assert_allclose(model.combination_losses(model.loss)[row, :count], loss, atol=2 * FINEST)
        assert np.isinf(model.combination_losses(model.loss)[row, count:]).all()
        unusable += np.isinf(loss).sum()
    assert unusable > 20


@pytest.mark.parametrize("space", SPACES)
@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_parameters_survive_the_round_trip(space: str, seed: int) -> None:
    prior = prior_of(space)
    model, resolved = model_from_prior(prior), prior.problem.space
    rng = np.random.default_rng(seed)
    params = {d.name: d.choices[rng.integers(len(d.choices))] for d in resolved.decisions}
    combinations = model.encode(params)
    again = model.decode(combinations)
    assert resolved.sites_for(again) == resolved.sites_for(params), "choices without effect may differ"
    assert (model.encode(again) == combinations).all()


def test_only_sites_without_ties_to_others_can_be_moved() -> None:
    for space in SPACES:
        prior = prior_of(space)
        tied = [site.site.endswith("attn.qk") and space == "tied across sites" for site in prior.problem.sites]
        assert (model_from_prior(prior).movable == ~np.array(tied)).all()


@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("infinite", [0.0, 0.4])
def test_allocations_by_other_losses(space: str, infinite: float) -> None:
    prior = prior_of(space, infinite=infinite)
    model = model_from_prior(prior)
    assert model.allocate is not None
    assert model.limit == prior.limit
    losses = model.loss * np.exp(np.random.default_rng(1).normal(size=len(model.loss)))
    limits = np.linspace(model.least, model.limit, 5)
    for limit, combinations in zip(limits, model.allocate(losses, limits), strict=True):
        (cost,) = model.costs(combinations[None])
        assert model.least <= cost <= limit
        starts = np.cumsum([len(table) for table in prior.table])[:-1]
        best = prior.problem.allocate(np.split(losses, starts), int(limit), gap=0)
        assert 1 - 1e-12 <= losses[model.options(combinations[None])].sum() / best.loss <= 1.2


CHOICES: dict[str, tuple[Any, ...]] = {
    "b": (8, 2, 4, 3),
    "a": ("plain", "log", "other"),
    "c": (0.5, 0.1),
    "d": (True, False),
    "e": (1, 2, 3, 4, 5, 6),
}
SPACE = {name: CategoricalDistribution(choices) for name, choices in CHOICES.items()}
CONSTANT = 700.0
Cost = Callable[[str, Any], float]


def random_cost(seed: int) -> Cost:
    rng = np.random.default_rng(seed)
    amounts = {(name, choice): rng.uniform(0, 100) for name, choices in CHOICES.items() for choice in choices}
    return lambda name, choice: amounts[name, choice]


def trials_of(cost: Cost, count: int, limit: float = np.inf, constrained: bool = True) -> list[FrozenTrial]:
    rng = np.random.default_rng(5)
    trials = []
    for _ in range(count):
        params = {name: choices[rng.integers(len(choices))] for name, choices in CHOICES.items()}
        total = CONSTANT + sum(cost(name, choice) for name, choice in params.items())
        constraints = {"budget": total - limit, "other": -1.0} if constrained else {}
        trials.append(create_trial(values=[total, 1.0], params=params, distributions=SPACE, constraints=constraints))
    return trials


@pytest.mark.parametrize("seed", range(3))
def test_costs_that_add_up_are_learned(seed: int) -> None:
    cost = random_cost(seed)
    model = model_from_study(SPACE, trials_of(cost, 100))
    unseen = trials_of(cost, 200)[100:]
    told = model.costs(np.array([model.encode(trial.params) for trial in unseen]))
    truth = np.array([trial.values[0] for trial in unseen])
    assert np.abs(told - truth).max() < 0.02 * truth.std()
    # Not only in sum: what changing one choice costs.
    for name, choices in CHOICES.items():
        params = dict(unseen[0].params)
        amounts = []
        for choice in choices:
            params[name] = choice
            amounts.append(float(model.costs(model.encode(params)[None])[0]))
        expected = np.array([cost(name, choice) for choice in choices])
        np.testing.assert_allclose(np.subtract(amounts, amounts[0]), expected - expected[0], atol=1.5)


def test_few_trials_do_not_fit_less_than_their_mean() -> None:
    trials = trials_of(random_cost(0), 3)
    model = model_from_study(SPACE, trials)
    told = model.costs(np.array([model.encode(trial.params) for trial in trials]))
    np.testing.assert_allclose(told, [trial.values[0] for trial in trials], rtol=1e-2)
    alone = model_from_study(SPACE, trials[:1])
    assert alone.costs(alone.encode(trials[2].params)[None])[0] == pytest.approx(trials[0].values[0])


def test_parameters_are_sites_with_one_operand_each() -> None:
    trials = trials_of(random_cost(0), 20)
    model = model_from_study(SPACE, trials)
    for trial in trials:
        combinations = model.encode(trial.params)
        assert model.decode(combinations) == trial.params
        assert len(set(model.options(combinations[None])[0])) == len(CHOICES)
    names = sorted(CHOICES)
    usable = [int(np.isfinite(row).sum()) for row in model.cost]
    assert usable == [len(CHOICES[name]) for name in names]
    assert model.operand_site.tolist() == list(range(len(names)))
    assert model.movable.all()
    assert model.allocate is None
    assert len(model.loss) == sum(map(len, CHOICES.values()))
    assert model.loss.sum() == pytest.approx(len(model.loss) / len(names))


def test_numbers_are_in_order_and_like_their_neighbours() -> None:
    """Two options' corrections have in common what their basis has: more the nearer, nothing for names."""
    model = model_from_study(SPACE, trials_of(random_cost(0), 20))
    assert model.basis is not None

    def common(name: str) -> np.ndarray:
        site = sorted(CHOICES).index(name)
        options = model.operand_option[site, : len(CHOICES[name])]
        basis = model.basis[options]  # type: ignore[index]
        np.testing.assert_array_equal(np.delete(model.basis, options, axis=0) @ basis.T, 0)  # type: ignore[arg-type]
        return np.asarray(basis @ basis.T)

    assert model.decode(np.array([0, 0, 0, 0, 0])) == {"a": "plain", "b": 2, "c": 0.1, "d": False, "e": 1}
    np.testing.assert_allclose(common("a"), np.eye(3))
    steps = 1 - common("e") / np.sqrt(np.outer(np.diag(common("e")), np.diag(common("e"))))
    for row in range(6):
        assert (np.diff(steps[row, row:]) > 0).all()
        assert (np.diff(steps[row, : row + 1]) < 0).all()


def model_with(limit: float, constrained: bool = True) -> tuple[AdditiveModel, np.ndarray]:
    trials = trials_of(random_cost(0), 60, limit, constrained)
    return model_from_study(SPACE, trials), np.array([trial.values[0] for trial in trials])


def test_the_limit_is_what_constraints_have_shown() -> None:
    model, costs = model_with(980.0)
    assert (costs <= 980).sum() > 5
    assert (costs > 980).sum() > 5
    assert model.limit == (costs[costs <= 980].max() + costs[costs > 980].min()) / 2
    assert model.least == costs.min()


def test_the_limit_where_nothing_or_everything_is_feasible() -> None:
    cost = random_cost(0)
    dearest = CONSTANT + sum(max(cost(name, choice) for choice in choices) for name, choices in CHOICES.items())
    for model, costs in (model_with(np.inf), model_with(0.0, constrained=False)):
        assert model.limit == pytest.approx(dearest, rel=0.01)
        assert model.limit >= costs.max()
    model, costs = model_with(0.0)
    assert model.limit == costs.min() == model.least


def test_the_limit_where_other_constraints_decide() -> None:
    """All that costs more than the dearest feasible one may be feasible too."""
    trials = trials_of(random_cost(0), 30)
    trials.sort(key=lambda trial: trial.values[0])
    first = trials[0]
    trials[0] = create_trial(
        values=first.values, params=first.params, distributions=SPACE, constraints={"budget": -1.0, "other": 1.0}
    )
    assert model_from_study(SPACE, trials).limit == trials[-1].values[0]
