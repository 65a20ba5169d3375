"""How far two measures of the same things agree on their order: Kendall's tau, its uncertainty and its ceiling."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import rankdata

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]

_RESAMPLES = 2000
_REDRAWN = 200
_LEVEL = 90.0
"""Percent of the resamples that an interval holds."""


@dataclass(frozen=True)
class Agreement:
    """Kendall's tau-b of two measures.

    Attributes:
        tau: 1 where both order all pairs alike, −1 where they order all of them the other way round, 0 in expectation
            if they have nothing to do with each other; None if either measure ties all pairs.
        low: lower end of the 90 % interval.
        high: upper end.
    """

    tau: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Ceiling:
    """What the sampling error of an accuracy leaves for any proxy to reach.

    Attributes:
        redrawn: mean tau between the accuracy and that on as many images drawn again, with replacement: about what a
            proxy that knew the accuracy on infinitely many images would reach.
        split_half: mean tau between the accuracies on two random halves of the images, which err more than the whole.
    """

    redrawn: float | None
    split_half: float | None


def kendall_tau(first: ArrayLike, second: ArrayLike, pairs: BoolArray | None = None) -> float | None:
    """Compute Kendall's tau-b (Kendall, Biometrika 1945), over some of the pairs.

    Concordant minus discordant pairs, divided by the geometric mean of the pairs that the one and the other measure
    does not tie. Infinities are values like others.

    Args:
        first: of shape (n,).
        second: of shape (n,).
        pairs: symmetric, of shape (n, n): which pairs count; None: all of them.

    Returns:
        None if either measure ties all pairs that count.
    """
    one, other = _order(first), _order(second)
    counted = np.ones_like(one) if pairs is None else pairs.astype(np.float64)
    return _finite(_taus(one, other, counted, np.ones((1, len(one))))[0])


def agreement(first: ArrayLike, second: ArrayLike, pairs: BoolArray | None = None, seed: int = 0) -> Agreement:
    """Compute ``kendall_tau`` with a 90 % interval: percentiles over bootstrap resamples of the n things compared.

    Args:
        first: of shape (n,).
        second: of shape (n,).
        pairs: symmetric, of shape (n, n): which pairs count; None: all of them.
        seed: of the resamples; of equal seeds they are the same for all measures.
    """
    one, other = _order(first), _order(second)
    n = len(one)
    counted = np.ones_like(one) if pairs is None else pairs.astype(np.float64)
    # A thing that is drawn twice is tied with itself in both measures, and such pairs do not count.
    rng = np.random.default_rng(seed)
    drawn = rng.multinomial(n, np.full(n, 1 / n), size=_RESAMPLES).astype(np.float64)  # (resamples, n)
    taus = _taus(one, other, counted, drawn)  # (resamples,)
    known = taus[np.isfinite(taus)]
    tau = kendall_tau(first, second, pairs)
    if tau is None or not len(known):
        return Agreement(tau, None, None)
    low, high = np.percentile(known, [50 - _LEVEL / 2, 50 + _LEVEL / 2])
    return Agreement(tau, float(low), float(high))


def accuracy_ceiling(right: BoolArray, pairs: BoolArray | None = None, seed: int = 0) -> Ceiling:
    """Estimate the tau that the sampling error of top-1 leaves for a proxy to reach.

    Args:
        right: of shape (n, images): whether a model's most likely class is the label. The images are the same for all
            n models, whose errors are therefore alike.
        pairs: symmetric, of shape (n, n): which pairs count; None: all of them.
        seed: of the images drawn.
    """
    images = right.shape[1]
    if images < 2:
        return Ceiling(None, None)
    rng = np.random.default_rng(seed)
    hits = right.astype(np.float64)
    whole = hits.sum(1)  # (n,)
    redrawn, halves = [], []
    for _ in range(_REDRAWN):
        again = hits @ rng.multinomial(images, np.full(images, 1 / images))  # (n,)
        redrawn.append(kendall_tau(whole, again, pairs))
        order = rng.permutation(images)
        middle = images // 2
        halves.append(kendall_tau(hits[:, order[:middle]].sum(1), hits[:, order[middle : 2 * middle]].sum(1), pairs))
    return Ceiling(_mean(redrawn), _mean(halves))


def _order(values: ArrayLike) -> FloatArray:
    """Return the sign of each difference, (n, n); ranks are compared, since infinities have no difference."""
    ranks = rankdata(np.asarray(values, dtype=np.float64))  # (n,)
    return np.asarray(np.sign(ranks[:, None] - ranks[None, :]), dtype=np.float64)


def _taus(one: FloatArray, other: FloatArray, counted: FloatArray, weights: FloatArray) -> FloatArray:
    """Return tau-b, (resamples,); each thing counts as often as the rows of ``weights`` (resamples, n) say."""
    agree, untied, untied_other = (
        ((weights @ (product * counted)) * weights).sum(1) for product in (one * other, one**2, other**2)
    )
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(agree / np.sqrt(untied * untied_other), dtype=np.float64)


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def _mean(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None
