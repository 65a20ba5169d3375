"""Ladders and neighbours: what may be proposed, whatever is drawn."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from optuna.distributions import CategoricalDistribution
from optuna.trial import create_trial

from autoq.search.samplers.landscape import Landscape, from_prior, from_study
from autoq.search.samplers.neighbours import Ladders, neighbours, novel

from .small_priors import SPACES, prior_of, problem_of, random_options


def corrected(landscape: Landscape, seed: int) -> NDArray[np.float64]:
    losses: NDArray[np.float64] = landscape.loss * np.exp(np.random.default_rng(seed).normal(0, 1, len(landscape.loss)))
    return losses


@cache
def landscape_of(space: str, infinite: float) -> Landscape:
    return study_landscape() if space == "study" else from_prior(prior_of(space, infinite=infinite))


@cache
def ends_of(space: str, infinite: float) -> tuple[float, float, NDArray[np.int64]]:
    """The range of costs, and an allocation for both ends of it."""
    prior = prior_of(space, infinite=infinite)
    low, high = prior.least_bops, prior.problem.maximum_bops
    return low, high, np.array([prior.allocate(high).options, prior.allocate(low).options])


def study_landscape() -> Landscape:
    space = {f"{i:02}": CategoricalDistribution((2, 3, 4, 6, 8)[: 2 + i % 4]) for i in range(12)}
    rng = np.random.default_rng(0)
    trials = []
    for _ in range(40):
        params = {name: kind.choices[rng.integers(len(kind.choices))] for name, kind in space.items()}
        cost = float(sum(params.values()))  # type: ignore[arg-type]
        trials.append(create_trial(values=[cost, 1.0], params=params, distributions=space))
    return from_study(space, trials)


@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("infinite", [0.0, 0.4])
def test_ladders_hold_what_nothing_beats(space: str, infinite: float) -> None:
    landscape = from_prior(prior_of(space, infinite=infinite))
    losses = corrected(landscape, 1)
    ladders = Ladders(landscape, losses)
    for item, (cost, loss) in enumerate(zip(landscape.cost, landscape.option_losses(losses), strict=True)):
        rungs = ladders.rungs[item, : ladders.lengths[item]]
        assert (np.diff(cost[rungs]) > 0).all()
        assert (np.diff(loss[rungs]) < 0).all()
        for option in np.flatnonzero(np.isfinite(cost)):
            beaten = any(
                cost[o] <= cost[option]
                and loss[o] <= loss[option]
                and (cost[o], loss[o]) != (cost[option], loss[option])
                for o in np.flatnonzero(np.isfinite(cost))
            )
            assert (cost[option], loss[option]) in list(zip(cost[rungs], loss[rungs], strict=True)) or beaten
            # The nearest rung is the best that costs no more.
            nearest = rungs[ladders.nearest[item, option]]
            assert cost[nearest] <= cost[option]
            assert loss[nearest] == min(loss[o] for o in range(len(cost)) if cost[o] <= cost[option])


def test_without_expected_losses_ladders_hold_all_in_order() -> None:
    landscape = study_landscape()
    ladders = Ladders(landscape, landscape.loss)
    for item, cost in enumerate(landscape.cost):
        usable = np.isfinite(cost).sum()
        assert ladders.lengths[item] == usable
        assert ladders.rungs[item, :usable].tolist() == list(range(usable))
        assert ladders.nearest[item, :usable].tolist() == list(range(usable))


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
    landscape = landscape_of(space, infinite)
    if space == "study":
        parents = np.array([[rng.integers(np.isfinite(row).sum()) for row in landscape.cost] for _ in range(3)])
        low, high = landscape.least, landscape.limit
    else:
        low, high, parents = ends_of(space, infinite)
        if not infinite:
            parents = np.vstack([parents, random_options(problem_of(space), rng, 2)])
    costs = (low + share * (high - low)) * rng.uniform(1, 1.1, 40)
    chosen = parents[rng.integers(len(parents), size=40)]
    ladders = Ladders(landscape, corrected(landscape, seed))
    before = chosen.copy()
    made = neighbours(landscape, ladders, chosen, costs, step, reach, rng)
    assert len(made) <= 40
    assert (landscape.costs(made) <= costs.max()).all()
    assert (chosen == before).all(), "arguments are left alone"
    if len(made) == 40:
        assert (landscape.costs(made) <= costs).all()
    fixed = ~landscape.movable
    for row in made:
        assert any((row[fixed] == parent[fixed]).all() for parent in parents)
        changed = [~(row == parent) for parent in parents]
        usable = [np.isfinite(landscape.cost[item, option]) for item, option in enumerate(row)]
        assert all(usable)
        rungs = [row[i] in ladders.rungs[i, : ladders.lengths[i]] for i in range(len(row))]
        assert any(np.where(moved, rungs, True).all() for moved in changed), "items move along their ladders"
    if space != "study" and not fixed.any():
        for row in made:
            problem_of(space).assignment(row)  # keeps all ties, or raises


def test_small_steps_change_few_items() -> None:
    """At the parents' own cost; large steps change more, and what is spent is nearly all that may be."""
    prior = prior_of("groups")
    landscape = from_prior(prior)
    ladders = Ladders(landscape, landscape.loss)
    assert landscape.allocate is not None
    parent = landscape.allocate(landscape.loss, np.array([landscape.limit]))[0]
    parents, limits = np.tile(parent, (300, 1)), np.full(300, landscape.limit)
    changes = []
    for step, reach in ((1.0, 1), (6.0, 3)):
        made = neighbours(landscape, ladders, parents, limits, step, reach, np.random.default_rng(0))
        changes.append((made != parent).sum(1).mean())
        assert np.median(landscape.costs(made)) > 0.99 * landscape.limit
    assert changes[0] < 4 < changes[1]


def test_neighbours_are_told_by_the_generator() -> None:
    prior = prior_of("groups")
    landscape = from_prior(prior)
    ladders = Ladders(landscape, landscape.loss)
    parents = random_options(prior.problem, np.random.default_rng(0), 20)
    limits = np.full(20, landscape.limit)
    one, again, other = (
        neighbours(landscape, ladders, parents, limits, 2.0, 1, np.random.default_rng(seed)) for seed in (0, 0, 1)
    )
    assert one.tolist() == again.tolist() != other.tolist()


def test_where_nothing_can_be_moved_parents_remain() -> None:
    prior = prior_of("tied across sites")
    landscape = from_prior(prior)
    stuck = Landscape(**{**vars(landscape), "movable": np.zeros_like(landscape.movable)})
    parents = random_options(prior.problem, np.random.default_rng(0), 20)
    costs = stuck.costs(parents)
    middle = np.median(costs)
    ladders = Ladders(stuck, stuck.loss)
    made = neighbours(stuck, ladders, parents, np.full(20, middle), 3.0, 1, np.random.default_rng(0))
    assert made.tolist() == parents[costs <= middle].tolist()


def test_only_what_is_new_is_left() -> None:
    prior = prior_of("groups")
    landscape = from_prior(prior)
    options = random_options(prior.problem, np.random.default_rng(0), 6)
    known = {landscape.entries(options[[1]]).tobytes(), landscape.entries(options[[4]]).tobytes()}
    left = novel(landscape, np.vstack([options, options[::-1]]), known)
    assert left.tolist() == options[[0, 2, 3, 5]].tolist()
    assert len(known) == 2
    assert novel(landscape, options[[1, 4]], known).shape == (0, options.shape[1])
