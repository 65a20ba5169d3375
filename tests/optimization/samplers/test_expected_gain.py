"""The expected gain against areas added up step by step, and draws."""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.special import erfcx

from autoq.optimization.samplers.expected_gain import Front, Prediction, log_expected_gain

FloatArray = NDArray[np.float64]
LIMIT, LEAST, BEYOND = 100.0, 20.0, 0.5
STEP = 0.25
FRONT_COST = np.array([30.0, 45.0, 46.0, 80.0])
FRONT_LOG = np.array([1.0, 0.2, -0.5, -2.0])
FRONT = Front(FRONT_COST, FRONT_LOG, LEAST, LIMIT)


def gain(cost: list[float], mean: list[float], deviation: list[float]) -> FloatArray:
    return log_expected_gain(FRONT, Prediction(*(np.array(values) for values in (cost, mean, deviation))))


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
    found = log_expected_gain(
        Front(np.array([10.0]), np.array([-0.5]), 10.0, LIMIT),
        Prediction(np.full(200, 50.0), -0.5 - 0.1 * z, np.full(200, 0.1)),
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
    candidates = Prediction(np.array([50.0, 90.0]), np.array([-1.0, -2.5]), np.array([0.3, 0.3]))
    more = Front(np.append(FRONT_COST, [101.0, 140.0]), np.append(FRONT_LOG, [-3.0, -5.0]), LEAST, LIMIT)
    np.testing.assert_array_equal(log_expected_gain(more, candidates), log_expected_gain(FRONT, candidates))
    nothing_within = log_expected_gain(Front(np.array([101.0]), np.array([0.0]), LEAST, LIMIT), candidates)
    assert np.argmax(nothing_within) == 0, "the cheapest first, until something is within"
