"""Optuna samplers by name.

To add one, write a ``BaseSampler`` in a file of its own and add a line to ``SAMPLERS``; ``--sampler`` and the tests of
all samplers find it there.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable

from optuna.exceptions import ExperimentalWarning
from optuna.samplers import BaseSampler, NSGAIISampler, RandomSampler, TPESampler

from autoq.search.samplers.progressive import ProgressiveSampler


def _tpe(seed: int) -> BaseSampler:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)  # multivariate
        return TPESampler(multivariate=True, seed=seed, n_startup_trials=1)


SAMPLERS: dict[str, Callable[[int], BaseSampler]] = {
    "progressive": lambda seed: ProgressiveSampler(seed=seed),
    "nsga2": lambda seed: NSGAIISampler(population_size=40, seed=seed),
    "tpe": _tpe,
    "random": lambda seed: RandomSampler(seed=seed),
}
"""``--sampler`` to a function from seed to sampler."""

__all__ = ["SAMPLERS", "ProgressiveSampler"]
