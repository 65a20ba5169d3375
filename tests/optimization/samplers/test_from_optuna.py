"""Optuna's samplers as a search uses them."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import optuna
import pytest
from optuna.samplers import BaseSampler, NSGAIISampler

from autoq.optimization.samplers import AllocationPrior, from_optuna

from .small_priors import prior_of, proposals

MAKERS = [from_optuna.nsga2, from_optuna.tpe, from_optuna.random]


@pytest.mark.parametrize("make", MAKERS)
def test_the_seed_decides(make: Callable[[int, AllocationPrior], BaseSampler]) -> None:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    prior = prior_of("plain")
    one, again, other = ([p.tolist() for p in proposals(make(seed, prior), prior, 6)] for seed in (0, 0, 1))
    assert one == again != other


def test_nothing_is_warned_of() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        from_optuna.tpe(0, prior_of("plain"))


def test_the_population_is_smaller_than_a_search_is_long() -> None:
    sampler = from_optuna.nsga2(0, prior_of("plain"))
    assert isinstance(sampler, NSGAIISampler)
    assert sampler._population_size == 40
