"""SiteFronts and neighbours: what may be proposed, whatever is drawn."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from optuna.distributions import CategoricalDistribution
from optuna.trial import create_trial

from autoq.optimization.samplers.additive_model import AdditiveModel, model_from_prior, model_from_study
from autoq.optimization.samplers.neighbours import SiteFronts, StepSize, neighbours, novel

from .small_priors import SPACES, prior_of, problem_of, random_combinations


def corrected(model: AdditiveModel, seed: int) -> NDArray[np.float64]:
    losses: NDArray[np.float64] = model.loss * np.exp(np.random.default_rng(seed).normal(0, 1, len(model.loss)))
    return losses


@cache
def model_of(space: str, infinite: float) -> AdditiveModel:
    return study_model() if space == "study" else model_from_prior(prior_of(space, infinite=infinite))


@cache
def ends_of(space: str, infinite: float) -> tuple[float, float, NDArray[np.int64]]:
    """The range of costs, and an allocation for both ends of it."""
    prior = prior_of(space, infinite=infinite)
    low, high = prior.least_cost, prior.problem.maximum_cost
    return low, high, np.array([prior.allocate(high).combinations, prior.allocate(low).combinations])


def study_model() -> AdditiveModel:
    space = {f"{i:02}": CategoricalDistribution((2, 3, 4, 6, 8)[: 2 + i % 4]) for i in range(12)}
    rng = np.random.default_rng(0)
    trials = []
    for _ in range(40):
        params = {name: kind.choices[rng.integers(len(kind.choices))] for name, kind in space.items()}
        cost = float(sum(params.values()))  # type: ignore[arg-type]
        trials.append(create_trial(values=[cost, 1.0], params=params, distributions=space))
    return model_from_study(space, trials)


@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("infinite", [0.0, 0.4])
def test_fronts_hold_what_nothing_beats(space: str, infinite: float) -> None:
    model = model_from_prior(prior_of(space, infinite=infinite))
    losses = corrected(model, 1)
    fronts = SiteFronts(model, losses)
    for site, (cost, loss) in enumerate(zip(model.cost, model.combination_losses(losses), strict=True)):
        front = fronts.combinations[site, : fronts.lengths[site]]
        assert (np.diff(cost[front]) > 0).all()
        assert (np.diff(loss[front]) < 0).all()
        for combination in np.flatnonzero(np.isfinite(cost)):
            beaten = any(
                cost[o] <= cost[combination]
                and loss[o] <= loss[combination]
                and (cost[o], loss[o]) != (cost[combination], loss[combination])
                for o in np.flatnonzero(np.isfinite(cost))
            )
            assert (cost[combination], loss[combination]) in list(zip(cost[front], loss[front], strict=True)) or beaten
            # The nearest on the front is the best that costs no more.
            nearest = front[fronts.positions[site, combination]]
            assert cost[nearest] <= cost[combination]
            assert loss[nearest] == min(loss[o] for o in range(len(cost)) if cost[o] <= cost[combination])


def test_without_expected_losses_fronts_hold_all_in_order() -> None:
    model = study_model()
    fronts = SiteFronts(model, model.loss)
    for site, cost in enumerate(model.cost):
        usable = np.isfinite(cost).sum()
        assert fronts.lengths[site] == usable
        assert fronts.combinations[site, :usable].tolist() == list(range(usable))
        assert fronts.positions[site, :usable].tolist() == list(range(usable))


@pytest.mark.parametrize("space", [*SPACES, "study"])
@settings(max_examples=8, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    infinite=st.sampled_from([0.0, 0.4]),
    share=st.floats(0, 1),
    step=st.floats(1, 20),
    reach=st.integers(1, 3),
)
def test_neighbours_keep_the_rules(
    space: str, seed: int, infinite: float, share: float, step: float, reach: int
) -> None:
    rng = np.random.default_rng(seed)
    model = model_of(space, infinite)
    if space == "study":
        parents = np.array([[rng.integers(np.isfinite(row).sum()) for row in model.cost] for _ in range(3)])
        low, high = model.least, model.limit
    else:
        low, high, parents = ends_of(space, infinite)
        if not infinite:
            parents = np.vstack([parents, random_combinations(problem_of(space), rng, 2)])
    costs = (low + share * (high - low)) * rng.uniform(1, 1.1, 40)
    chosen = parents[rng.integers(len(parents), size=40)]
    fronts = SiteFronts(model, corrected(model, seed))
    before = chosen.copy()
    made = neighbours(fronts, chosen, costs, StepSize(step, reach), rng)
    assert len(made) <= 40
    assert (model.costs(made) <= costs.max()).all()
    assert (chosen == before).all(), "arguments are left alone"
    if len(made) == 40:
        assert (model.costs(made) <= costs).all()
    fixed = ~model.movable
    for row in made:
        assert any((row[fixed] == parent[fixed]).all() for parent in parents)
        changed = [~(row == parent) for parent in parents]
        usable = [np.isfinite(model.cost[site, combination]) for site, combination in enumerate(row)]
        assert all(usable)
        front = [row[i] in fronts.combinations[i, : fronts.lengths[i]] for i in range(len(row))]
        assert any(np.where(moved, front, True).all() for moved in changed), "sites move along their fronts"
    if space != "study" and not fixed.any():
        for row in made:
            problem_of(space).assignment(row)  # keeps all ties, or raises


def test_small_steps_change_few_sites() -> None:
    """At the parents' own cost; large steps change more, and what is spent is nearly all that may be."""
    prior = prior_of("groups")
    model = model_from_prior(prior)
    fronts = SiteFronts(model, model.loss)
    assert model.allocate is not None
    parent = model.allocate(model.loss, np.array([model.limit]))[0]
    parents, limits = np.tile(parent, (300, 1)), np.full(300, model.limit)
    changes = []
    for step in (StepSize(1.0, 1), StepSize(6.0, 3)):
        made = neighbours(fronts, parents, limits, step, np.random.default_rng(0))
        changes.append((made != parent).sum(1).mean())
        assert np.median(model.costs(made)) > 0.99 * model.limit
    assert changes[0] < 4 < changes[1]


def test_neighbours_are_told_by_the_generator() -> None:
    prior = prior_of("groups")
    model = model_from_prior(prior)
    fronts = SiteFronts(model, model.loss)
    parents = random_combinations(prior.problem, np.random.default_rng(0), 20)
    limits = np.full(20, model.limit)
    one, again, other = (
        neighbours(fronts, parents, limits, StepSize(2.0, 1), np.random.default_rng(seed)) for seed in (0, 0, 1)
    )
    assert one.tolist() == again.tolist() != other.tolist()


def test_where_nothing_can_be_moved_parents_remain() -> None:
    prior = prior_of("tied across sites")
    model = model_from_prior(prior)
    stuck = AdditiveModel(**{**vars(model), "movable": np.zeros_like(model.movable)})
    parents = random_combinations(prior.problem, np.random.default_rng(0), 20)
    costs = stuck.costs(parents)
    middle = np.median(costs)
    fronts = SiteFronts(stuck, stuck.loss)
    made = neighbours(fronts, parents, np.full(20, middle), StepSize(3.0, 1), np.random.default_rng(0))
    assert made.tolist() == parents[costs <= middle].tolist()


def test_only_what_is_new_is_left() -> None:
    prior = prior_of("groups")
    model = model_from_prior(prior)
    combinations = random_combinations(prior.problem, np.random.default_rng(0), 6)
    known = {model.options(combinations[[1]]).tobytes(), model.options(combinations[[4]]).tobytes()}
    left = novel(model, np.vstack([combinations, combinations[::-1]]), known)
    assert left.tolist() == combinations[[0, 2, 3, 5]].tolist()
    assert len(known) == 2
    assert novel(model, combinations[[1, 4]], known).shape == (0, combinations.shape[1])
