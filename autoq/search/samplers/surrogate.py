"""A Gaussian process over configurations: what trials have taught beyond the expected losses that add up."""

from __future__ import annotations

import math
from dataclasses import fields

import numpy as np
from scipy.linalg import cho_solve, cholesky, solve_triangular

from autoq.search.samplers.landscape import FloatArray, IntArray, Landscape, Scales

_LENGTHS = (0.15, 0.4, 1.0)
"""Shares of the loss, of which the likeliest is taken: what has to change for two configurations to have 1/e of their
luck in common. Small images that are told apart easily need the least."""
_FACTORS = (0.3, 0.6, 1.0, 1.6)
"""By which all scales are multiplied, the likeliest again."""
_FITTED_TO = 120
"""Trials that the likelihood is of."""
_TREND = 0.4
"""Standard deviation of what losses within a nat of each other differ by in common: large errors grow on each other."""
_OFFSET = 3.0
"""Standard deviation of the constant c: sensitivities may have another unit than the loss."""


class Surrogate:
    """The logarithm of the loss as that of the expected sum, plus a correction with a Gaussian prior.

    With s_j(x) the share of part j in the expected loss of x, the correction is
    c + t(m(x)) + Σ_j s_j(x)·(u_j + v_{j,x_j}) + l(x): a smooth function t of the expected loss m, sensitivities
    corrected part by part (u) and entry by entry (v), and luck l, which configurations have in common as far as they
    have their parts: k(x, x') = exp(−d(x, x') / λ), with d the share that differs. Rounding errors of a layer meet
    those of all others, which sensitivities measured alone do not see: that is what l is for. λ and the size of all
    corrections are those with the greatest marginal likelihood (Rasmussen and Williams 2006, eq. 5.8) of a few.
    """

    def __init__(self, landscape: Landscape, options: IntArray, logarithms: FloatArray) -> None:
        """Condition on trials.

        Args:
            landscape: what is expected.
            options: (n, items) configurations that were evaluated.
            logarithms: (n,) of the losses that were found.
        """
        self._landscape = landscape
        few = np.linspace(0, len(options) - 1, min(len(options), _FITTED_TO)).round().astype(np.int64)
        self._scales, self._length = _likeliest(landscape, options[few], logarithms[few])
        self._known = _Described(landscape, options)
        self._residual = logarithms - self._known.expected
        covariance = _Covariance(self._known, self._known)(self._scales, self._length)
        self._factor = _factorized(covariance, self._scales)
        self._weights = cho_solve((self._factor, True), self._residual)

    def predict(self, options: IntArray) -> tuple[FloatArray, FloatArray]:
        """(m,) Mean and standard deviation of the logarithm of the loss of configurations of shape (m, items)."""
        asked = _Described(self._landscape, options)
        covariance = _Covariance(asked, self._known)(self._scales, self._length)
        explained = solve_triangular(self._factor, covariance.T, lower=True)
        scales = self._scales
        prior = (
            _OFFSET**2 + _TREND**2 + scales.own**2 + scales.local**2 + scales.part**2 * np.square(asked.shares).sum(1)
        )
        prior += scales.entry**2 * np.square(asked.features).sum(1)
        variance = np.maximum(prior - np.square(explained).sum(0), 1e-12)
        return asked.expected + covariance @ self._weights, np.sqrt(variance)

    def draw_losses(self, rng: np.random.Generator) -> FloatArray:
        """(entries,) Expected losses times one draw of their corrections (Thompson sampling).

        By Matheron's rule: a draw of the prior, moved by what it would have had to explain.
        """
        landscape, scales = self._landscape, self._scales
        basis, part_of = landscape.basis, _part_of_entry(landscape)
        part = rng.normal(0, scales.part, len(landscape.part_item))
        feature = rng.normal(0, scales.entry, len(landscape.loss) if basis is None else basis.shape[1])
        known = self._known
        explained = known.shares @ part + known.features @ feature + rng.normal(0, _OFFSET)
        rest = math.sqrt(_TREND**2 + scales.local**2 + scales.own**2) * rng.normal(size=len(self._residual))
        weights = cho_solve((self._factor, True), self._residual - explained - rest)
        part = part + scales.part**2 * (known.shares.T @ weights)
        feature = feature + scales.entry**2 * (known.features.T @ weights)
        corrections = part[part_of] + (feature if basis is None else basis @ feature)
        losses: FloatArray = landscape.loss * np.exp(np.clip(corrections, -2, 2))
        return losses


def _likeliest(landscape: Landscape, options: IntArray, logarithms: FloatArray) -> tuple[Scales, float]:
    """The scales and the length under which what was found is likeliest."""
    base = landscape.scales(logarithms)
    known = _Described(landscape, options)
    residual = logarithms - known.expected
    covariance = _Covariance(known, known)
    best = (math.inf, base, _LENGTHS[0])
    for factor in _FACTORS:
        scales = Scales(*(factor * getattr(base, field.name) for field in fields(Scales)))
        for length in _LENGTHS:
            root = _factorized(covariance(scales, length), scales)
            misfit = solve_triangular(root, residual, lower=True)
            energy = 0.5 * float(misfit @ misfit) + float(np.log(np.diag(root)).sum())
            best = min(best, (energy, scales, length), key=lambda found: found[0])
    return best[1:]


def _factorized(covariance: FloatArray, scales: Scales) -> FloatArray:
    covariance[np.diag_indices_from(covariance)] += scales.own**2
    root: FloatArray = cholesky(covariance, lower=True, check_finite=False)
    return root


class _Covariance:
    """Between configurations, for any scales; what does not depend on those is worked out once."""

    def __init__(self, some: _Described, others: _Described) -> None:
        alike = 0.5 * (some.weighted @ others.chosen.T + some.chosen @ others.weighted.T)
        self._differing: FloatArray = 1 - alike.astype(np.float64)
        distance = np.subtract.outer(some.expected, others.expected)
        self._common: FloatArray = _OFFSET**2 + _TREND**2 * np.exp(-0.5 * np.square(distance))
        self._parts: FloatArray = some.shares @ others.shares.T
        self._entries: FloatArray = (some.features @ others.features.T).astype(np.float64)

    def __call__(self, scales: Scales, length: float) -> FloatArray:
        covariance: FloatArray = (
            self._common
            + scales.part**2 * self._parts
            + scales.entry**2 * self._entries
            + scales.local**2 * np.exp(-self._differing / length)
        )
        return covariance


class _Described:
    """Configurations as the surrogate sees them.

    Attributes:
        expected: (n,) logarithm of the expected loss.
        shares: (n, parts) in the expected loss.
        chosen: (n, entries) one where an entry is chosen; single precision, as only products need them.
        weighted: (n, entries) a part's share where an entry is chosen.
        features: (n, features) of the entries' corrections.
    """

    def __init__(self, landscape: Landscape, options: IntArray) -> None:
        entries = landscape.entries(options)
        losses = landscape.loss[entries]
        total = losses.sum(1)
        self.expected: FloatArray = np.log(total)
        self.shares: FloatArray = losses / total[:, None]
        rows = np.arange(len(options))[:, None]
        self.chosen = np.zeros((len(options), len(landscape.loss)), dtype=np.float32)
        self.chosen[rows, entries] = 1
        self.weighted = np.zeros_like(self.chosen)
        self.weighted[rows, entries] = self.shares
        self.features = self.weighted if landscape.basis is None else self.weighted @ landscape.basis


def _part_of_entry(landscape: Landscape) -> IntArray:
    owner = np.zeros(len(landscape.loss), dtype=np.int64)
    for part, entries in enumerate(landscape.part_entry):
        owner[entries[np.isfinite(landscape.cost[landscape.part_item[part]])]] = part
    return owner
