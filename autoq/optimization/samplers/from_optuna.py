"""Optuna's own samplers, with the settings that a search uses: what others are compared with."""

from __future__ import annotations

import warnings

from optuna.exceptions import ExperimentalWarning
from optuna.samplers import NSGAIISampler, RandomSampler, TPESampler

from autoq.optimization.samplers.prior import AllocationPrior


def nsga2(seed: int, _prior: AllocationPrior) -> NSGAIISampler:
    """Make NSGA-II (Deb et al., IEEE TEC 2002) with a population of 40."""
    return NSGAIISampler(population_size=40, seed=seed)


def tpe(seed: int, _prior: AllocationPrior) -> TPESampler:
    """Make a multivariate tree-structured Parzen estimator (Bergstra et al., NeurIPS 2011), without random start."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)  # multivariate
        return TPESampler(multivariate=True, seed=seed, n_startup_trials=1)


def random(seed: int, _prior: AllocationPrior) -> RandomSampler:
    """Make a sampler of independent, evenly distributed choices."""
    return RandomSampler(seed=seed)
