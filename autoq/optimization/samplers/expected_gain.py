"""The expected hypervolume that configurations add to a front, in closed form.

The expected hypervolume improvement of Emmerich, Giannakoglou and Naujoks (IEEE TEC 2006), for two objectives of which
one, the cost, is known exactly and the other, the logarithm of the loss, is normally distributed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy.special import ndtr

from autoq.optimization.allocation.knapsack import FloatArray

_BEYOND = 0.5
"""Share of the limit by which costs are taken to go on: what the best within the limit is worth."""


@dataclass(frozen=True, eq=False)
class Front:
    """A non-dominated front, by ascending cost, and the range that costs can have.

    Attributes:
        cost: (points,).
        logarithm: (points,) of the loss, descending, in nats.
        least: the least cost of a configuration.
        limit: the most that one may cost.
    """

    cost: FloatArray
    logarithm: FloatArray
    least: float
    limit: float


@dataclass(frozen=True, eq=False)
class Prediction:
    """What is expected of configurations.

    Attributes:
        cost: (n,) known exactly.
        mean: (n,) of the logarithm of the loss, in nats.
        deviation: (n,) its standard deviation.
    """

    cost: FloatArray
    mean: FloatArray
    deviation: FloatArray


def log_expected_gain(front: Front, predicted: Prediction) -> FloatArray:
    """Compute (n,) the logarithm of the expected hypervolume that each configuration adds, in cost × nats.

    What a configuration saves at a cost is what it saves at all costs from there to that of the next better one on
    the front; the limit's own step is counted as if costs went on by half. If the front has nothing within the limit,
    the cheapest configuration gains most.

    >>> front = Front(np.array([2.0]), np.array([0.0]), least=1.0, limit=4.0)
    >>> better, worse = log_expected_gain(front, Prediction(np.full(2, 3.0), np.array([-1.0, 1.0]), np.full(2, 0.5)))
    >>> bool(better > worse)
    True
    """
    within = front.cost <= front.limit
    steps = np.concatenate([front.cost[within], [front.limit + _BEYOND * abs(front.limit)]])
    heights = front.logarithm[within]
    if not len(heights):
        return -predicted.cost
    # Below the cheapest of the front anything is an improvement, over the worst that is known.
    starts = np.concatenate([[min(front.least, steps[0])], steps[:-1]])
    heights = np.concatenate([[front.logarithm.max() + 1.0], heights])
    widths = np.maximum(steps - np.maximum(starts, predicted.cost[:, None]), 0)  # (n, steps)
    z = (heights - predicted.mean[:, None]) / predicted.deviation[:, None]
    # Far from any improvement, z·Φ(z) + φ(z) cancels; its leading term does not.
    log_density = -0.5 * z**2 - 0.5 * math.log(2 * math.pi)
    plain = np.log(np.maximum(z * ndtr(z) + np.exp(log_density), 1e-300))
    improvement = np.where(z > -5, plain, log_density - 2 * np.log(np.maximum(-z, 1.0)))
    with np.errstate(divide="ignore"):
        weighted = np.log(widths) + improvement + np.log(predicted.deviation)[:, None]
        most = np.maximum(weighted.max(axis=1), np.finfo(np.float64).min)  # where nothing is gained all are -inf
        gain: FloatArray = most + np.log(np.exp(weighted - most[:, None]).sum(axis=1))
    return gain
