"""Tied knapsacks against all solutions that keep the ties, joined and branched."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from autoq.optimization.allocation import tied_knapsack
from autoq.optimization.allocation.knapsack import Knapsack
from autoq.optimization.allocation.tied_knapsack import TiedKnapsack

Arrays = list[NDArray[Any]]


def drawn(seed: int, classes: int, items: int, ties: int, choices: int = 3) -> tuple[Arrays, Arrays, Arrays]:
    """Costs, losses and ties that bind about half of the classes each; some choices are not offered everywhere."""
    rng = np.random.default_rng(seed)
    costs: Arrays = [rng.integers(0, 50, items) for _ in range(classes)]
    losses: Arrays = [np.where(rng.random(items) < 0.1, np.inf, rng.random(items)) for _ in range(classes)]
    bound = rng.random((classes, ties)) < 0.5
    taken: Arrays = [np.where(row, rng.integers(0, choices, (items, ties)), -1) for row in bound]
    return costs, losses, taken


def solutions(costs: Arrays, losses: Arrays, ties: Arrays) -> dict[tuple[int, ...], tuple[int, float]]:
    """Every solution of finite loss that keeps the ties, its cost and its loss."""
    found = {}
    for way in itertools.product(*(range(len(cost)) for cost in costs)):
        taken = np.array([tied[item] for tied, item in zip(ties, way, strict=True)])
        kept = all(len({choice for choice in column if choice >= 0}) <= 1 for column in taken.T)
        loss = math.fsum(loss[item] for loss, item in zip(losses, way, strict=True))
        if kept and math.isfinite(loss):
            found[way] = sum(int(cost[item]) for cost, item in zip(costs, way, strict=True)), loss
    return found


@pytest.mark.parametrize("joined", [True, False], ids=["joined", "branched"])
@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), ties=st.integers(0, 3), share=st.floats(0, 1.1))
def test_no_solution_is_better(joined: bool, seed: int, ties: int, share: float) -> None:
    arrays = drawn(seed, 4, 5, ties)
    every = solutions(*arrays)
    with pytest.MonkeyPatch.context() as patch:
        if not joined:
            patch.setattr(tied_knapsack, "_MAX_COMBINATIONS", 0)
        solver = TiedKnapsack(*arrays)
        if not every:
            assert solver.least_cost is None
            return
        costs = [cost for cost, _ in every.values()]
        least = min(costs)
        assert solver.least_cost == least
        budget = int(least + share * (max(costs) - least))
        items, proven = solver.exact(budget, 0)
        near = solver.relaxed(budget)
    assert proven
    cost, loss = every[tuple(items.tolist())]
    assert cost <= budget
    assert loss == pytest.approx(min(loss for cost, loss in every.values() if cost <= budget), rel=1e-12)
    near_cost, near_loss = every[tuple(near.tolist())]
    assert near_cost <= budget
    assert near_loss >= loss - 1e-12


@pytest.mark.parametrize("seed", range(40))
def test_against_the_whole_table_of_costs(seed: int) -> None:
    """The textbook dynamic program, over every cost; half of the problems with ties, joined from three classes."""
    rng = np.random.default_rng(seed)
    count = 9
    costs = [rng.integers(0, 40, 8) for _ in range(count)]
    losses = [rng.random(8) for _ in range(count)]
    choice = np.repeat(np.arange(4), 2)[:, None]
    ties = [choice if seed % 2 and row in (1, 4, 7) else np.full((8, 1), -1) for row in range(count)]
    budget = int(rng.integers(60, 160))
    best = math.inf
    for tied in range(4 if seed % 2 else 1):
        table = np.zeros(budget + 1)
        for cost, loss, taken in zip(costs, losses, ties, strict=True):
            ways = [o for o in range(8) if taken[o, 0] in (-1, tied)]
            rows = [np.r_[np.full(cost[o], np.inf), table[: budget + 1 - cost[o]] + loss[o]] for o in ways]
            table = np.min(rows, axis=0)
        best = min(best, table[-1])
    items, proven = TiedKnapsack(costs, losses, ties).exact(budget, 0)
    assert proven
    assert sum(int(cost[o]) for cost, o in zip(costs, items, strict=True)) <= budget
    assert math.fsum(loss[o] for loss, o in zip(losses, items, strict=True)) == pytest.approx(best, rel=1e-12)


def test_without_ties_it_is_a_knapsack() -> None:
    costs, losses, ties = drawn(1, 8, 6, 0)
    tied, plain = TiedKnapsack(costs, losses, ties).exact(150, 0), Knapsack(costs, losses).exact(150, 0)
    assert tied[0].tolist() == plain[0].tolist()


def test_classes_that_cannot_agree_have_no_solution() -> None:
    costs, losses = [np.array([1, 2])] * 2, [np.array([0.1, 0.2])] * 2
    ties = [np.array([[0], [1]]), np.array([[2], [3]])]
    assert TiedKnapsack(costs, losses, ties).least_cost is None
