"""A Gaussian process over configurations: corrections, learned from trials, to losses that add up."""

from __future__ import annotations

import math
from copy import copy
from dataclasses import fields

import numpy as np
from scipy.linalg import cho_solve, cholesky, solve_triangular

from autoq.optimization.allocation.knapsack import FloatArray, IntArray
from autoq.optimization.samplers.additive_model import AdditiveModel, Scales

_LENGTHS = (0.15, 0.4, 1.0)
"""Length scales λ, as shares of the loss, of which the likeliest is taken: where that share differs, the covariance of
two local deviations falls to 1/e. Small images that are told apart easily need the least."""
_FACTORS = (0.3, 0.6, 1.0, 1.6)
"""Factors on all scales, of which the likeliest is taken."""
_FITTED_TO = 120
"""Trials that the likelihood is computed from, at most."""
_TREND = 0.4
"""Standard deviation of the trend t: large errors amplify each other. Its length scale is one nat."""
_OFFSET = 3.0
"""Standard deviation of the constant c: sensitivities may have another unit than the loss."""


class Surrogate:
    """The logarithm of the loss as that of the expected sum, plus a correction with a Gaussian prior.

    With s_j(x) the share of operand j in the expected loss of x, the correction is
    c + t(m(x)) + Σ_j s_j(x)·(u_j + v_{j,x_j}) + l(x): a constant c, a smooth function t of the expected loss m,
    corrections of the sensitivity of each operand (u) and of each option (v), and a local deviation l with covariance
    k(x, x') = exp(−d(x, x') / λ), where d is the share of the loss whose options differ. Rounding errors of a layer
    meet those of all others, which sensitivities measured alone do not see; l models that. λ and the size of all
    corrections are, of a few values, those with the greatest marginal likelihood (Rasmussen and Williams 2006,
    eq. 5.8).
    """

    def __init__(
        self,
        model: AdditiveModel,
        combinations: IntArray,
        logarithms: FloatArray,
        fitted: tuple[Scales, float] | None = None,
    ) -> None:
        """Condition on trials.

        Args:
            model: costs, and losses that are expected.
            combinations: (n, sites) configurations that were evaluated.
            logarithms: (n,) of the losses that were found.
            fitted: the sizes of corrections, and λ; None: the likeliest.
        """
        self._model, self._combinations, self._logarithms = model, combinations, logarithms
        self._known = _Features(model, combinations)
        self._residual = logarithms - self._known.expected
        kernel = _Covariance(self._known, self._known)
        few = np.linspace(0, len(combinations) - 1, min(len(combinations), _FITTED_TO)).round().astype(np.int64)
        likely = fitted or _likeliest(model.scales(logarithms[few]), kernel.among(few), self._residual[few])
        self._scales, self._length = likely
        covariance = kernel(self._scales, self._length)
        self._factor = _factorized(covariance, self._scales)
        self._weights = cho_solve((self._factor, True), self._residual, check_finite=False)

    def believing(self, combinations: IntArray, logarithms: FloatArray) -> Surrogate:
        """Condition on further configurations, (m, sites), of which the logarithms of losses, (m,), are believed."""
        return Surrogate(
            self._model,
            np.concatenate([self._combinations, combinations]),
            np.concatenate([self._logarithms, logarithms]),
            (self._scales, self._length),
        )

    def predict(self, combinations: IntArray) -> tuple[FloatArray, FloatArray]:
        """Predict the logarithm of the loss.

        Args:
            combinations: (m, sites) configurations.

        Returns:
            Its mean and its standard deviation, (m,) each, in nats.
        """
        asked = _Features(self._model, combinations)
        covariance = _Covariance(asked, self._known)(self._scales, self._length)
        explained = solve_triangular(self._factor, covariance.T, lower=True, check_finite=False)
        scales = self._scales
        prior = (
            _OFFSET**2
            + _TREND**2
            + scales.nugget**2
            + scales.local**2
            + scales.operand**2 * np.square(asked.shares).sum(1)
        )
        prior += scales.option**2 * np.square(asked.features).sum(1)
        variance = np.maximum(prior - np.square(explained).sum(0), 1e-12)
        return asked.expected + covariance @ self._weights, np.sqrt(variance)

    def draw_losses(self, rng: np.random.Generator) -> FloatArray:
        """Draw losses of options, (options,), from the posterior (Thompson sampling).

        By Matheron's rule: a draw from the prior is corrected by the residuals that it leaves.
        """
        model, scales = self._model, self._scales
        basis, operand_of = model.basis, _operand_of_option(model)
        operand = rng.normal(0, scales.operand, len(model.operand_site))
        feature = rng.normal(0, scales.option, len(model.loss) if basis is None else basis.shape[1])
        known = self._known
        explained = known.shares @ operand + known.features @ feature + rng.normal(0, _OFFSET)
        rest = math.sqrt(_TREND**2 + scales.local**2 + scales.nugget**2) * rng.normal(size=len(self._residual))
        weights = cho_solve((self._factor, True), self._residual - explained - rest, check_finite=False)
        operand = operand + scales.operand**2 * (known.shares.T @ weights)
        feature = feature + scales.option**2 * (known.features.T @ weights)
        corrections = operand[operand_of] + (feature if basis is None else basis @ feature)
        losses: FloatArray = model.loss * np.exp(np.clip(corrections, -2, 2))
        return losses


def _likeliest(base: Scales, covariance: _Covariance, residual: FloatArray) -> tuple[Scales, float]:
    """Choose the scales and the length under which the losses of trials are likeliest."""
    best = (math.inf, base, _LENGTHS[0])
    for factor in _FACTORS:
        scales = Scales(*(factor * getattr(base, field.name) for field in fields(Scales)))
        for length in _LENGTHS:
            root = _factorized(covariance(scales, length), scales)
            misfit = solve_triangular(root, residual, lower=True, check_finite=False)
            energy = 0.5 * float(misfit @ misfit) + float(np.log(np.diag(root)).sum())
            best = min(best, (energy, scales, length), key=lambda found: found[0])
    return best[1:]


def _factorized(covariance: FloatArray, scales: Scales) -> FloatArray:
    """Compute the Cholesky factor, (n, n), of a covariance to which the nugget is added in place."""
    covariance[np.diag_indices_from(covariance)] += scales.nugget**2
    root: FloatArray = cholesky(covariance, lower=True, check_finite=False)
    return root


class _Covariance:
    """The covariance between configurations for any scales; what does not depend on those is computed once."""

    def __init__(self, some: _Features, others: _Features) -> None:
        shared = some.weighted @ others.chosen.T
        alike = 0.5 * (shared + (shared.T if some is others else some.chosen @ others.weighted.T))
        self._differing: FloatArray = 1 - alike.astype(np.float64)
        distance = np.subtract.outer(some.expected, others.expected)
        self._common: FloatArray = _OFFSET**2 + _TREND**2 * np.exp(-0.5 * np.square(distance))
        self._operands: FloatArray = some.shares @ others.shares.T
        self._options: FloatArray = (some.features @ others.features.T).astype(np.float64)
        self._falling: dict[float, FloatArray] = {}

    def among(self, few: IntArray) -> _Covariance:
        """Return that between these configurations alone, where both sides are the same."""
        part, chosen = copy(self), np.ix_(few, few)
        part._differing, part._common = self._differing[chosen], self._common[chosen]
        part._operands, part._options, part._falling = self._operands[chosen], self._options[chosen], {}
        return part

    def __call__(self, scales: Scales, length: float) -> FloatArray:
        if length not in self._falling:
            self._falling[length] = np.exp(-self._differing / length)
        covariance: FloatArray = (
            self._common
            + scales.operand**2 * self._operands
            + scales.option**2 * self._options
            + scales.local**2 * self._falling[length]
        )
        return covariance


class _Features:
    """The quantities of configurations that covariances are computed from.

    Attributes:
        expected: (n,) logarithm of the expected loss.
        shares: (n, operands) of each operand in the expected loss.
        chosen: (n, options) one where an option is chosen; single precision, as only products need them.
        weighted: (n, options) the operand's share where an option is chosen.
        features: (n, features) of the options' corrections.
    """

    def __init__(self, model: AdditiveModel, combinations: IntArray) -> None:
        options = model.options(combinations)
        losses = model.loss[options]
        total = losses.sum(1)
        self.expected: FloatArray = np.log(total)
        self.shares: FloatArray = losses / total[:, None]
        rows = np.arange(len(combinations))[:, None]
        self.chosen = np.zeros((len(combinations), len(model.loss)), dtype=np.float32)
        self.chosen[rows, options] = 1
        self.weighted = np.zeros_like(self.chosen)
        self.weighted[rows, options] = self.shares
        self.features = self.weighted if model.basis is None else self.weighted @ model.basis


def _operand_of_option(model: AdditiveModel) -> IntArray:
    """Find (options,) the operand of each option."""
    owner = np.zeros(len(model.loss), dtype=np.int64)
    for operand, options in enumerate(model.operand_option):
        owner[options[np.isfinite(model.cost[model.operand_site[operand]])]] = operand
    return owner
