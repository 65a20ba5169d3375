from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import kendalltau

from autoq.sensitivity.rank_agreement import Agreement, Ceiling, accuracy_ceiling, agreement, kendall_tau

VALUES = st.sampled_from([-2.0, 0.0, 0.5, 1.0, 3.0, math.inf])


def slow_tau(first: list[float], second: list[float], pairs: np.ndarray, times: list[int]) -> float | None:
    """Kendall's tau-b by its definition, over a list in which each thing stands ``times`` often."""
    things = [thing for thing, count in enumerate(times) for _ in range(count)]
    agree = untied = untied_other = 0
    for i, j in itertools.combinations(things, 2):
        if pairs[i, j]:
            one = (first[i] > first[j]) - (first[i] < first[j])
            other = (second[i] > second[j]) - (second[i] < second[j])
            agree, untied, untied_other = agree + one * other, untied + abs(one), untied_other + abs(other)
    return agree / math.sqrt(untied * untied_other) if untied and untied_other else None


@given(st.lists(st.tuples(VALUES, VALUES), min_size=1, max_size=9), st.integers(0, 2**20))
def test_kendalls_tau(points: list[tuple[float, float]], seed: int) -> None:
    first, second = [a for a, _ in points], [b for _, b in points]
    rng = np.random.default_rng(seed)
    every = np.ones((len(points), len(points)), dtype=bool)
    some = np.triu(rng.random(every.shape) < 0.6)
    some |= some.T
    for pairs, given_ in ((every, None), (some, some)):
        expected = slow_tau(first, second, pairs, [1] * len(points))
        assert kendall_tau(first, second, given_) == (None if expected is None else pytest.approx(expected))


def test_as_in_scipy() -> None:
    rng = np.random.default_rng(0)
    first, noise = rng.normal(size=40), rng.normal(size=40)
    second = np.round(first + noise)
    assert kendall_tau(first, second) == pytest.approx(kendalltau(first, second).statistic)
    assert kendall_tau(first, first**3) == pytest.approx(1)
    assert kendall_tau(first, -first) == pytest.approx(-1)


def test_interval() -> None:
    rng = np.random.default_rng(1)
    first = rng.normal(size=30)
    second = first + rng.normal(size=30)
    found = agreement(first, second, seed=3)
    assert found.tau == kendall_tau(first, second)
    assert found.low is not None
    assert found.high is not None
    draws = np.random.default_rng(9)
    resampled = []
    for _ in range(1000):
        index = draws.integers(30, size=30)
        resampled.append(kendalltau(first[index], second[index]).statistic)
    low, high = np.percentile(resampled, [5, 95])
    assert found.low == pytest.approx(low, abs=0.02)
    assert found.high == pytest.approx(high, abs=0.02)
    assert agreement(first, second, seed=3) == found
    assert agreement(first, second, seed=4) != found


def test_interval_over_some_pairs() -> None:
    rng = np.random.default_rng(1)
    first = rng.normal(size=20)
    second = np.where(np.arange(20) < 10, first, -first)
    same = np.arange(20) < 10
    found = agreement(first, second, same[:, None] & same)
    assert (found.tau, found.low, found.high) == (pytest.approx(1), pytest.approx(1), pytest.approx(1))


def test_no_order() -> None:
    assert agreement([1, 1, 1], [1, 2, 3]) == Agreement(None, None, None)
    assert agreement([1, 2, 3], [1, 2, 3], np.zeros((3, 3), dtype=bool)) == Agreement(None, None, None)


def test_ceiling() -> None:
    rng = np.random.default_rng(2)
    accuracy = np.linspace(0.5, 0.9, 20)
    few, many = (rng.random((20, images)) < accuracy[:, None] for images in (50, 5000))
    low, high = accuracy_ceiling(few), accuracy_ceiling(many)
    assert low.redrawn is not None
    assert low.split_half is not None
    assert high.redrawn is not None
    assert high.split_half is not None
    assert low.split_half < low.redrawn < high.split_half < high.redrawn <= 1
    assert high.redrawn > 0.93
    reached = [kendall_tau(accuracy, (rng.random((20, 50)) < accuracy[:, None]).sum(1)) or 0.0 for _ in range(300)]
    assert low.redrawn == pytest.approx(np.mean(reached), abs=0.1), "about what the true accuracy reaches"
    assert accuracy_ceiling(few) == low


def test_ceiling_where_images_are_hard_for_all() -> None:
    """The better model is right on all that the other is right on: the order is certain however few are right."""
    hardness = np.random.default_rng(0).random(400)
    right = np.array([hardness < share for share in (0.5, 0.6, 0.7)])
    found = accuracy_ceiling(right)
    assert (found.redrawn, found.split_half) == (pytest.approx(1), pytest.approx(1))
    assert accuracy_ceiling(right[:, :1]) == Ceiling(None, None)
