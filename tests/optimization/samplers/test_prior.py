"""Budgets that are spread evenly, and allocations within them."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoq.cost import uniform_bops
from autoq.optimization.samplers import AllocationPrior
from autoq.sensitivity.table import Sensitivity, SensitivityTable
from tests.optimization.synthetic_sites import vit

from .small_priors import prior_of, problem_of


def reversed_binary(position: int) -> float:
    """The van der Corput sequence by its definition: binary digits mirrored at the point."""
    return sum(int(digit) * 2.0 ** -(place + 1) for place, digit in enumerate(reversed(f"{position:b}")))


@settings(max_examples=50, deadline=None)
@given(position=st.integers(0, 5000), share=st.floats(0.05, 1.0))
def test_budgets_are_a_van_der_corput_sequence_of_logarithms(position: int, share: float) -> None:
    prior = prior_of(share=share)
    high, low = prior.limit, 1.01 * prior.problem.minimum_cost
    expected = high * (low / high) ** reversed_binary(position)
    assert prior.budget(position) == pytest.approx(expected, abs=1)
    assert prior.problem.minimum_cost < prior.budget(position) <= prior.budget(0) == high


@pytest.mark.parametrize("count", [4, 16, 64])
def test_any_first_positions_are_spread_evenly(count: int) -> None:
    prior = prior_of(share=1.0)
    logarithms = np.sort([math.log(prior.budget(position)) for position in range(count)])
    assert np.diff(logarithms).max() < 2.1 * np.diff(logarithms).min()
    span = math.log(prior.limit / (1.01 * prior.problem.minimum_cost))
    assert logarithms[-1] - logarithms[0] == pytest.approx(span * (1 - 1 / count), rel=1e-3)


def test_the_tightest_budget_leaves_nothing_to_spread() -> None:
    problem = problem_of("groups")
    prior = AllocationPrior(problem, prior_of().table, problem.minimum_cost)
    assert {prior.budget(position) for position in range(20)} == {problem.minimum_cost}
    assert prior.allocate(prior.budget(7)).cost == problem.minimum_cost


@pytest.mark.parametrize("share", [0.1, 0.4, 1.0])
@pytest.mark.parametrize("count", [3, 20])
def test_costs_of_uniform_widths_take_the_places_of_those_near(share: float, count: int) -> None:
    prior = prior_of(share=share)
    even = [prior.budget(position) for position in range(count)]
    uniform = [cost for cost in prior.problem.uniform_costs if min(even) < cost < prior.limit]
    found = prior.first_budgets(count)
    assert found[0] == prior.limit
    if count > 2 * len(uniform):
        assert np.abs(np.log(np.array(found) / even)).max() < math.log(prior.limit / min(even)) / 8, "in their order"
    assert len(found) == count
    assert set(uniform) <= set(found) or len(uniform) >= count
    assert len(set(found) & set(even)) == max(1, count - len(uniform))


def test_uniform_costs_are_those_of_budgets() -> None:
    problem = problem_of("groups")
    assert problem.uniform_costs == tuple(uniform_bops(vit(), bits, bits) for bits in range(2, 9))


@pytest.mark.parametrize("space", ["groups", "tied by site", "tied across sites"])
def test_allocations_are_those_of_the_problem(space: str) -> None:
    prior = prior_of(space)
    for position in range(6):
        budget = prior.budget(position)
        found = prior.allocate(budget)
        exact = prior.problem.allocate(prior.table, budget, gap=0)
        assert found.cost <= budget
        assert exact.loss <= found.loss <= 1.001 * exact.loss


@pytest.mark.parametrize("space", ["groups", "tied by site", "tied across sites"])
def test_budgets_suffice_for_what_is_usable(space: str) -> None:
    """The least recipe of the space costs less than any without the configurations whose losses are infinite."""
    prior = prior_of(space, infinite=0.5, share=0.9)
    cheapest = [np.where(np.isfinite(x), s.cost, 1 << 60).min() for s, x in usable(prior)]
    assert sum(map(int, cheapest)) + prior.problem.fixed_cost > 1.01 * prior.problem.minimum_cost
    for position in range(32):
        allocation = prior.allocate(prior.budget(position))
        assert math.isfinite(allocation.loss)
        assert allocation.cost <= prior.budget(position)


def usable(prior: AllocationPrior) -> list[tuple[object, np.ndarray]]:
    """The sites with the losses of their combinations."""
    return list(zip(prior.problem.sites, prior.problem.site_losses(prior.table), strict=True))


def test_losses_are_read_from_the_sensitivities() -> None:
    problem = problem_of("groups")
    pairs = list(zip(problem.operands, problem.options, strict=True))
    combinations = [(*operand, config) for operand, configs in pairs for config in configs]
    rows = [Sensitivity(*combination, float(number)) for number, combination in enumerate(combinations)]
    prior = AllocationPrior.of(problem, SensitivityTable("kl", 8, tuple(reversed(rows))), 10)
    assert np.concatenate(list(prior.table)).tolist() == list(range(len(combinations)))
    assert [len(losses) for losses in prior.table] == [len(configs) for _, configs in pairs]
    nothing = AllocationPrior.of(problem, None, 10)
    assert [losses.tolist() for losses in nothing.table] == [[0.0] * len(configs) for _, configs in pairs]
