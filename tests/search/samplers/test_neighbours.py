"""Ladders and neighbours: what may be proposed, whatever is drawn."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from optuna.distributions import CategoricalDistribution
from optuna.trial import create_trial

from autoq.search.samplers.landscape import Landscape, from_prior, from_study
from autoq.search.samplers.neighbours import Ladders, neighbours, novel

from .small_priors import SPACES, prior_of, random_options


def corrected(landscape: Landscape, seed: int) -> NDArray[np.float64]:
    losses: NDArray[np.float64] = landscape.loss * np.exp(np.random.default_rng(seed).normal(0, 1, len(landscape.loss)))
    return losses


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
@settings(max_examples=15, deadline=None)
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
    if space == "study":
        landscape = study_landscape()
        parents = np.array([[rng.integers(np.isfinite(row).sum()) for row in landscape.cost] for _ in range(3)])
        low, high = landscape.least, landscape.limit
    else:
        prior = prior_of(space, infinite=infinite)
        landscape = from_prior(prior)
        low, high = prior.least_bops, prior.problem.maximum_bops
        parents = random_options(prior.problem, rng, 3)
        if infinite:
            parents = np.vstack([prior.allocate(high).options, prior.allocate(low).options])
    cost = low + share * (high - low)
    ladders = Ladders(landscape, corrected(landscape, seed))
    given_parents = parents.copy()
    made = neighbours(landscape, ladders, parents, cost, step, reach, 40, rng)
    assert len(made) <= 40
    assert (landscape.costs(made) <= cost).all()
    assert (parents == given_parents).all()
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
            prior.problem.assignment(row)  # keeps all ties, or raises


def test_small_steps_change_few_items() -> None:
    """At the parents' own cost; large steps change more, and what is spent is nearly all that may be."""
    prior = prior_of("groups")
    landscape = from_prior(prior)
    ladders = Ladders(landscape, landscape.loss)
    assert landscape.allocate is not None
    parent = landscape.allocate(landscape.loss, landscape.limit)
    changes = []
    for step, reach in ((1.0, 1), (6.0, 3)):
        made = neighbours(landscape, ladders, parent[None], landscape.limit, step, reach, 300, np.random.default_rng(0))
        changes.append((made != parent).sum(1).mean())
        assert np.median(landscape.costs(made)) > 0.99 * landscape.limit
    assert changes[0] < 4 < changes[1]


def test_neighbours_are_told_by_the_generator() -> None:
    prior = prior_of("groups")
    landscape = from_prior(prior)
    ladders = Ladders(landscape, landscape.loss)
    parents = random_options(prior.problem, np.random.default_rng(0), 3)
    one, again, other = (
        neighbours(landscape, ladders, parents, landscape.limit, 2.0, 1, 50, np.random.default_rng(seed))
        for seed in (0, 0, 1)
    )
    assert one.tolist() == again.tolist() != other.tolist()


def test_where_nothing_can_be_moved_parents_remain() -> None:
    text_of_all = "tied across sites"
    prior = prior_of(text_of_all)
    landscape = from_prior(prior)
    stuck = Landscape(**{**vars(landscape), "movable": np.zeros_like(landscape.movable)})
    parents = random_options(prior.problem, np.random.default_rng(0), 20)
    middle = float(np.median(landscape.costs(parents)))
    ladders = Ladders(stuck, stuck.loss)
    made = neighbours(stuck, ladders, parents, middle, 3.0, 1, 50, np.random.default_rng(0))
    assert 0 < len(made) < 50
    assert (stuck.costs(made) <= middle).all()
    assert {row.tobytes() for row in made} <= {row.tobytes() for row in parents}


def test_only_what_is_new_is_left() -> None:
    prior = prior_of("groups")
    landscape = from_prior(prior)
    options = random_options(prior.problem, np.random.default_rng(0), 6)
    known = {landscape.entries(options[[1]]).tobytes(), landscape.entries(options[[4]]).tobytes()}
    left = novel(landscape, np.vstack([options, options[::-1]]), known)
    assert left.tolist() == options[[0, 2, 3, 5]].tolist()
    assert len(known) == 2
    assert novel(landscape, options[[1, 4]], known).shape == (0, options.shape[1])
