"""Knapsacks against all solutions in turn, and against a general solver."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.optimize import Bounds, LinearConstraint, milp

from autoq.optimization.allocation import knapsack
from autoq.optimization.allocation.knapsack import Knapsack, pareto

Arrays = list[NDArray[Any]]


def total(values: Sequence[Any], items: Any) -> float:
    return math.fsum(value[item] for value, item in zip(values, items, strict=True))


def drawn(seed: int, classes: int, items: int, equal: bool = False) -> tuple[Arrays, Arrays]:
    """Costs and losses; with few values, so that many are equal, or all different."""
    rng = np.random.default_rng(seed)
    sizes = rng.integers(1, items + 1, classes)
    costs: Arrays = [rng.integers(0, 4 if equal else 50, size) for size in sizes]
    losses: Arrays = [rng.integers(0, 3, size) / 2 if equal else rng.random(size) for size in sizes]
    return costs, losses


def test_pareto_keeps_the_first_of_equals_in_each_group() -> None:
    costs, losses = np.array([3, 1, 1, 2, 2, 0]), np.array([0.5, 2.0, 2.0, 0.5, 1.0, np.nan])
    assert pareto(costs, losses).tolist() == [1, 3]
    assert pareto(costs, losses, np.array([1, 0, 1, 0, 1, 0])).tolist() == [1, 3, 2, 4, 0]


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), equal=st.booleans())
def test_pareto_keeps_what_nothing_dominates(seed: int, equal: bool) -> None:
    (cost,), (loss,) = drawn(seed, 1, 12, equal)
    kept = pareto(cost, loss)
    assert (np.diff(cost[kept]) > 0).all()
    assert (np.diff(loss[kept]) < 0).all()
    for item in range(len(cost)):
        assert any(cost[other] <= cost[item] and loss[other] <= loss[item] for other in kept)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), equal=st.booleans(), share=st.floats(0, 1.2))
def test_no_solution_is_better(seed: int, equal: bool, share: float) -> None:
    costs, losses = drawn(seed, 5, 5, equal)
    solver = Knapsack(costs, losses)
    least = sum(int(cost.min()) for cost in costs)
    assert solver.least_cost == least
    budget = least + int(share * (sum(int(cost.max()) for cost in costs) - least))
    ways = itertools.product(*(range(len(cost)) for cost in costs))
    best = min(total(losses, way) for way in ways if total(costs, way) <= budget)
    items, proven = solver.exact(budget, 0)
    assert proven
    assert total(costs, items) <= budget
    assert total(losses, items) == pytest.approx(best, rel=1e-12)
    near = solver.relaxed(budget)
    assert total(costs, near) <= budget
    assert solver.bound(budget) - 1e-12 <= best <= total(losses, near) + 1e-12


@pytest.mark.parametrize("seed", range(3))
def test_a_general_solver_finds_nothing_better(seed: int) -> None:
    costs, losses = drawn(seed, 25, 12)
    solver = Knapsack(costs, losses)
    budget = 2 * solver.least_cost + 100
    starts = np.concatenate([[0], np.cumsum([len(cost) for cost in costs])])
    one = np.zeros((len(costs), starts[-1]))
    for row, (start, end) in enumerate(itertools.pairwise(starts)):
        one[row, start:end] = 1
    found = milp(
        np.concatenate(losses),
        constraints=[LinearConstraint(one, 1, 1), LinearConstraint(np.concatenate(costs)[None], -np.inf, budget)],
        bounds=Bounds(0, 1),
        integrality=1,
        options={"mip_rel_gap": 0},
    )
    assert found.success
    items, proven = solver.exact(budget, 0)
    assert proven
    assert total(losses, items) == pytest.approx(found.fun, abs=2e-6)
    assert total(costs, items) <= budget


def test_a_gap_may_be_left() -> None:
    """A solution within the gap of the best is proven; more work is done for a smaller one only."""
    costs, losses = drawn(11, 40, 12)
    solver = Knapsack(costs, losses)
    budget = 2 * solver.least_cost + 100
    best = total(losses, solver.exact(budget, 0)[0])
    for gap in (0.5, 1e-2):
        items, proven = solver.exact(budget, gap)
        assert proven
        assert best <= total(losses, items) <= best * (1 + gap) / (1 - gap)


def test_everything_fits_into_a_large_budget() -> None:
    costs, losses = drawn(3, 6, 6)
    items, proven = Knapsack(costs, losses).exact(10**9, 0)
    assert proven
    assert [loss[item] for loss, item in zip(losses, items, strict=True)] == [loss.min() for loss in losses]


def test_no_classes_are_an_empty_solution() -> None:
    items, proven = Knapsack([], []).exact(0, 0)
    assert (items.tolist(), proven) == ([], True)


def test_too_many_states_leave_the_solution_unproven(monkeypatch: pytest.MonkeyPatch) -> None:
    proofs = set()
    for seed in range(20):
        rng = np.random.default_rng(seed)
        costs = [rng.integers(1, 10**6, 12) for _ in range(20)]
        losses = [rng.random(12) for _ in costs]
        solver = Knapsack(costs, losses)
        budget = 3 * solver.least_cost
        monkeypatch.setattr(knapsack, "_MAX_STATES", 1 << 17)
        best, proven = solver.exact(budget, 0)
        assert proven
        monkeypatch.setattr(knapsack, "_MAX_STATES", 1)
        items, proven = solver.exact(budget, 0)
        proofs.add(proven)
        assert total(costs, items) <= budget
        assert total(losses, best) <= total(losses, items) <= total(losses, solver.relaxed(budget))
        assert solver.bound(budget) <= total(losses, best) + 1e-12
        if proven:
            assert total(losses, best) == total(losses, items)
    assert False in proofs
