"""The surrogate against a Gaussian process written out pair by pair, operand by operand."""

from __future__ import annotations

import math
from dataclasses import astuple
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from optuna.distributions import CategoricalDistribution
from optuna.trial import create_trial

from autoq.optimization.samplers.additive_model import AdditiveModel, Scales, model_from_prior, model_from_study
from autoq.optimization.samplers.surrogate import Surrogate

from .small_priors import prior_of, random_combinations

FloatArray = NDArray[np.float64]
LENGTHS, FACTORS = (0.15, 0.4, 1.0), (0.3, 0.6, 1.0, 1.6)
TREND, OFFSET = 0.4, 3.0
SINGLE = 2e-4
"""What single precision leaves of the similarity of configurations."""


class Reference:
    """The model of the docstring, in loops."""

    def __init__(self, model: AdditiveModel, combinations: NDArray[np.int64], logarithms: FloatArray) -> None:
        self.model, self.combinations = model, combinations
        self.residual = logarithms - np.array([self.expected(row) for row in combinations])
        fits = [(-self.likelihood(s, length), i, s, length) for i, (s, length) in enumerate(self.grid(logarithms))]
        _, _, self.scales, self.length = min(fits)
        self.covariance = self.noisy(self.scales, self.length)

    def grid(self, logarithms: FloatArray) -> list[tuple[Scales, float]]:
        base = astuple(self.model.scales(logarithms))
        return [(Scales(*(factor * value for value in base)), length) for factor in FACTORS for length in LENGTHS]

    def operands(self, row: NDArray[np.int64]) -> list[tuple[int, float]]:
        """The option of each operand, and its share in the expected loss."""
        model = self.model
        options = [int(model.operand_option[operand, row[site]]) for operand, site in enumerate(model.operand_site)]
        total = sum(model.loss[option] for option in options)
        return [(option, model.loss[option] / total) for option in options]

    def expected(self, row: NDArray[np.int64]) -> float:
        model = self.model
        return math.log(
            sum(model.loss[model.operand_option[operand, row[site]]] for operand, site in enumerate(model.operand_site))
        )

    def alike(self, one: int, other: int) -> float:
        """Covariance of two options' own corrections, in units of the scale."""
        basis = self.model.basis
        return float(one == other) if basis is None else float(basis[one] @ basis[other])

    def kernel(self, x: NDArray[np.int64], y: NDArray[np.int64], scales: Scales, length: float) -> float:
        ours, theirs = self.operands(x), self.operands(y)
        distance = 1.0
        operand = 0.0
        for (mine, my_share), (other, other_share) in zip(ours, theirs, strict=True):
            operand += my_share * other_share
            if mine == other:
                distance -= (my_share + other_share) / 2
        option = sum(s * t * self.alike(a, b) for a, s in ours for b, t in theirs)
        trend = math.exp(-((self.expected(x) - self.expected(y)) ** 2) / 2)
        local = scales.local**2 * math.exp(-distance / length)
        return OFFSET**2 + TREND**2 * trend + scales.operand**2 * operand + scales.option**2 * option + local

    def noisy(self, scales: Scales, length: float) -> FloatArray:
        found = np.array([[self.kernel(x, y, scales, length) for y in self.combinations] for x in self.combinations])
        return found + scales.nugget**2 * np.eye(len(self.combinations))

    def likelihood(self, scales: Scales, length: float) -> float:
        covariance = self.noisy(scales, length)
        misfit = self.residual @ np.linalg.solve(covariance, self.residual)
        return float(-0.5 * misfit - 0.5 * np.linalg.slogdet(covariance)[1])

    def predict(self, row: NDArray[np.int64]) -> tuple[float, float]:
        across = np.array([self.kernel(row, other, self.scales, self.length) for other in self.combinations])
        mean = self.expected(row) + across @ np.linalg.solve(self.covariance, self.residual)
        own = self.kernel(row, row, self.scales, self.length) + self.scales.nugget**2
        return mean, math.sqrt(own - across @ np.linalg.solve(self.covariance, across))

    def correction(self, operand: int, option: int) -> float:
        """Posterior mean of what the logarithm of an option's loss is corrected by."""
        across = []
        for row in self.combinations:
            ours = self.operands(row)
            of_option = sum(share * self.alike(option, other) for other, share in ours)
            across.append(self.scales.operand**2 * ours[operand][1] + self.scales.option**2 * of_option)
        return float(np.array(across) @ np.linalg.solve(self.covariance, self.residual))


def study_model(seed: int) -> AdditiveModel:
    """Of unequal parameters, some of them ordered."""
    choices = {"a": ("x", "y", "z"), "b": (2, 3, 4, 6), "c": (1, 4), "d": (2, 3, 4)}
    space = {name: CategoricalDistribution(values) for name, values in choices.items()}
    rng = np.random.default_rng(seed)
    trials = []
    for _ in range(8):
        params = {name: values[rng.integers(len(values))] for name, values in choices.items()}
        trials.append(create_trial(values=[rng.random(), 1.0], params=params, distributions=space))
    return model_from_study(space, trials)


KINDS = ("prior", "tied", "study")


@cache
def example(
    kind: str, seed: int = 0, count: int = 9, noise: float = 0.5
) -> tuple[AdditiveModel, FloatArray, FloatArray]:
    """A model, configurations and the logarithms of their losses: not quite those expected."""
    rng = np.random.default_rng(seed)
    if kind == "study":
        model = study_model(seed)
        usable = np.isfinite(model.cost).sum(1)
        combinations = np.array([[rng.integers(n) for n in usable] for _ in range(count)])
    else:
        prior = prior_of("plain" if kind == "prior" else "tied by site", seed)
        model = model_from_prior(prior)
        combinations = random_combinations(prior.problem, rng, count)
    true = model.loss * np.exp(rng.normal(0, noise, len(model.loss)))
    logarithms = np.log(true[model.options(combinations)].sum(1)) + rng.normal(0, 0.1, count) + 1.0
    return model, combinations, logarithms


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", [0, 1])
def test_predictions_are_those_of_the_reference(kind: str, seed: int) -> None:
    model, combinations, logarithms = example(kind, seed)
    known, asked = combinations[:6], combinations
    surrogate, reference = Surrogate(model, known, logarithms[:6]), Reference(model, known, logarithms[:6])
    mean, deviation = surrogate.predict(asked)
    expected = np.array([reference.predict(row) for row in asked])
    np.testing.assert_allclose(mean, expected[:, 0], rtol=SINGLE, atol=SINGLE)
    np.testing.assert_allclose(deviation, expected[:, 1], rtol=SINGLE, atol=SINGLE)


@pytest.mark.parametrize("kind", KINDS)
def test_the_likeliest_scales_are_taken(kind: str) -> None:
    taken = set()
    for seed, noise in ((0, 0.01), (2, 3.0)):
        model, combinations, logarithms = example(kind, seed, noise=noise)
        surrogate, reference = (
            Surrogate(model, combinations, logarithms),
            Reference(model, combinations, logarithms),
        )
        best = max(reference.likelihood(*way) for way in reference.grid(logarithms))
        assert (surrogate._scales, surrogate._length) in reference.grid(logarithms)
        assert reference.likelihood(surrogate._scales, surrogate._length) == pytest.approx(best, abs=1e-3)
        taken.add((surrogate._scales, surrogate._length))
    assert len(taken) > 1, "what was found decides"


@pytest.mark.parametrize("kind", KINDS)
def test_draws_are_corrected_as_trials_teach_on_average(kind: str) -> None:
    model, combinations, logarithms = example(kind, 3, noise=0.1)
    surrogate, reference = Surrogate(model, combinations, logarithms), Reference(model, combinations, logarithms)
    rng = np.random.default_rng(0)
    draws = np.array([np.log(surrogate.draw_losses(rng) / model.loss) for _ in range(2000)])
    assert np.abs(draws).max() <= 2 + 1e-12, "a draw stays within two nats"
    for operand, site in enumerate(model.operand_site):
        for option in set(model.operand_option[operand, np.isfinite(model.cost[site])]):
            mean, error = draws[:, option].mean(), draws[:, option].std() / math.sqrt(len(draws))
            # Draws beyond two nats are cut off, which moves the mean where they vary much.
            beyond = (np.abs(draws[:, option]) > 1.99).mean()
            assert abs(mean - reference.correction(operand, int(option))) < 5 * error + beyond


def test_draws_are_told_by_the_generator() -> None:
    surrogate = Surrogate(*example("prior"))
    one, again, other = (surrogate.draw_losses(np.random.default_rng(seed)) for seed in (0, 0, 1))
    np.testing.assert_array_equal(one, again)
    assert (one != other).all()


def test_unusable_options_stay_unusable() -> None:
    prior = prior_of("plain", infinite=0.3)
    model = model_from_prior(prior)
    combinations = random_combinations(prior.problem, np.random.default_rng(0), 4000)
    combinations = combinations[np.isfinite(model.costs(combinations))]
    widest = np.array([[len(site.cost) - 1 for site in prior.problem.sites]])
    known = np.vstack([combinations[:5], widest])
    drawn = Surrogate(model, known, np.linspace(-1, 1, len(known))).draw_losses(np.random.default_rng(0))
    assert (np.isinf(drawn) == np.isinf(model.loss)).all()
    assert np.isinf(drawn).any()


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 1000), kind=st.sampled_from(KINDS), count=st.integers(1, 30))
def test_known_points_are_known_best(seed: int, kind: str, count: int) -> None:
    model, combinations, logarithms = example(kind, seed, 32)
    known, found = combinations[:count], logarithms[:count]
    surrogate = Surrogate(model, known, found)
    own, offset = surrogate._scales.nugget, OFFSET
    mean, deviation = surrogate.predict(combinations)
    assert (deviation[:count] < math.sqrt(2) * own * (1 + 1e-3)).all()
    assert (deviation >= own * (1 - 1e-3)).all(), "what a configuration shares with no other cannot be known"
    assert (deviation < offset + 1e-9).all() or count < 3
    assert np.abs(mean[:count] - found).mean() <= np.abs(_expected(model, known) - found).mean() + own


@pytest.mark.parametrize("kind", KINDS)
def test_more_trials_leave_less_open(kind: str) -> None:
    """With the same scales: those are fitted anew to every set of trials."""
    model, combinations, logarithms = example(kind, 0, 20)
    fitted = Surrogate(model, combinations, logarithms)
    before = None
    for count in (2, 6, 18):
        reference = Reference(model, combinations[:2], logarithms[:2])
        reference.combinations, reference.scales, reference.length = (
            combinations[:count],
            fitted._scales,
            fitted._length,
        )
        reference.residual = np.zeros(count)
        reference.covariance = reference.noisy(reference.scales, reference.length)
        deviation = reference.predict(combinations[19])[1]
        assert before is None or deviation < before
        before = deviation


def test_larger_expected_losses_stay_larger() -> None:
    """Far from all trials, predictions follow what is expected, moved by the unit of the losses."""
    prior = prior_of("plain")
    model = model_from_prior(prior)
    problem = prior.problem
    widths = (2, 3, 4, 6, 8)
    uniform = np.array([problem.combinations_of(problem.space.uniform_assignment(bits)) for bits in widths])
    known = uniform[[0, 2, 4]]
    unit = 5.0
    surrogate = Surrogate(model, known, _expected(model, known) + unit)
    mean, _ = surrogate.predict(uniform)
    assert (np.diff(mean) < 0).all()
    np.testing.assert_allclose(mean, _expected(model, uniform) + unit, atol=0.3)


def test_errors_that_grow_on_each_other_are_learned() -> None:
    """Losses that are the square of what is expected: the trend between trials follows them."""
    prior = prior_of("plain")
    model = model_from_prior(prior)
    combinations = random_combinations(prior.problem, np.random.default_rng(0), 60)
    expected = _expected(model, combinations)
    surrogate = Surrogate(model, combinations[:50], 2 * expected[:50])
    mean, _ = surrogate.predict(combinations[50:])
    error = np.abs(mean - 2 * expected[50:]).mean()
    plain = expected[50:] + (expected[:50]).mean()
    assert error < 0.5 * np.abs(plain - 2 * expected[50:]).mean()


def _expected(model: AdditiveModel, combinations: NDArray[np.int64]) -> FloatArray:
    return np.asarray(np.log(model.loss[model.options(combinations)].sum(1)))


def test_what_is_believed_is_certain_and_changes_no_expectation() -> None:
    """The kriging believer: nothing is learned of losses, only where another evaluation would tell little."""
    rng = np.random.default_rng(0)
    prior = prior_of("groups")
    model = model_from_prior(prior)
    combinations = random_combinations(prior.problem, rng, 14)
    surrogate = Surrogate(model, combinations[:10], rng.normal(0, 1, 10))
    asked = combinations[10:]
    expected, deviation = surrogate.predict(asked)
    believing = surrogate.believing(asked[:2], expected[:2])
    after, left = believing.predict(asked)
    assert after == pytest.approx(expected, abs=1e-3)
    assert (left[:2] < 0.75 * deviation[:2]).all()
    assert (left <= deviation + 1e-6).all()
