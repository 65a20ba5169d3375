"""The front and the figures drawn from it, against brute force."""

from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoq.optimization.front import KL_FLOOR_NATS, best_within, hypervolume, knee, log10_kl, non_dominated

# Few distinct values, so that ties are common.
coordinates = st.one_of(st.integers(0, 6).map(float), st.floats(0, 10))
points_lists = st.lists(st.tuples(coordinates, coordinates), max_size=40)


def brute_force_front(points: list[tuple[float, float]]) -> set[int]:
    def beaten(i: int) -> bool:
        a = points[i]
        return any((b[0] <= a[0] and b[1] <= a[1]) and (b != a or j < i) for j, b in enumerate(points) if j != i)

    return {i for i in range(len(points)) if not beaten(i)}


@given(points_lists)
def test_non_dominated_agrees_with_brute_force(points: list[tuple[float, float]]) -> None:
    front = non_dominated(points)
    assert set(front) == brute_force_front(points)
    assert len(front) == len(set(front))
    assert [points[i][0] for i in front] == sorted(points[i][0] for i in front)


def test_ties_keep_the_first_and_non_finite_points_are_left_out() -> None:
    assert non_dominated([(math.nan, 0.0), (2.0, 1.0), (2.0, 1.0), (1.0, math.inf), (3.0, math.nan)]) == [1]
    assert non_dominated([]) == []


@given(points_lists, st.tuples(st.integers(1, 7).map(float), st.sampled_from([1e-3, 1.0, 5.0])))
def test_hypervolume_agrees_with_a_sum_over_cells(
    points: list[tuple[float, float]], reference: tuple[float, float]
) -> None:
    columns = sorted({bops for bops, _ in points if bops < reference[0]} | {reference[0]})
    area = 0.0
    for left, right in itertools.pairwise(columns):
        least = min(log10_kl(kl) for bops, kl in points if bops <= left)
        area += (right - left) * max(0.0, log10_kl(reference[1]) - least)
    assert hypervolume(points, reference) == pytest.approx(area)


def test_hypervolume_of_known_points() -> None:
    assert hypervolume([(1.0, 0.1), (2.0, 0.01)], (4.0, 1.0)) == pytest.approx(3 * 1 + 2 * 1)
    assert hypervolume([(5.0, 0.1), (1.0, 2.0)], (4.0, 1.0)) == 0.0
    assert hypervolume([(1.0, 0.0)], (2.0, 1.0)) == pytest.approx(-math.log10(KL_FLOOR_NATS))


@given(points_lists, points_lists)
def test_hypervolume_never_shrinks_with_more_points(a: list[tuple[float, float]], b: list[tuple[float, float]]) -> None:
    assert hypervolume(a + b, (8.0, 8.0)) >= hypervolume(a, (8.0, 8.0)) - 1e-9


def test_knee_of_an_elbow() -> None:
    assert knee([(1.0, 1.0), (2.0, 0.01), (3.0, 0.005), (4.0, 0.004), (2.5, 5.0)]) == 1


def test_knee_without_a_bend_is_the_most_faithful_point() -> None:
    assert knee([(1.0, 1.0)]) == 0
    assert knee([(2.0, 0.1), (1.0, 1.0)]) == 0
    assert knee([(1.0, 1.0), (2.0, 0.9), (3.0, 0.001)]) == 2  # concave
    assert knee([(1.0, KL_FLOOR_NATS / 2), (2.0, 0.0)]) == 1  # flat on the log scale


def test_knee_needs_a_point() -> None:
    with pytest.raises(ValueError, match="without points"):
        knee([(math.nan, 1.0)])


@given(points_lists.filter(bool))
def test_knee_is_on_the_front(points: list[tuple[float, float]]) -> None:
    assert knee(points) in non_dominated(points)


@given(points_lists, st.floats(0, 10))
def test_best_within_agrees_with_brute_force(points: list[tuple[float, float]], budget: float) -> None:
    affordable = [(kl, bops, i) for i, (bops, kl) in enumerate(points) if bops <= budget]
    assert best_within(points, budget) == (min(affordable)[2] if affordable else None)


def test_log10_kl_is_floored() -> None:
    assert log10_kl(0.0) == log10_kl(-1e-12) == math.log10(KL_FLOOR_NATS)
    assert log10_kl(0.1) == pytest.approx(-1)
