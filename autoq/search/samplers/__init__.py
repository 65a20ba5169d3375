"""Optuna samplers by name.

To add one, write a ``BaseSampler`` in a file of its own and add a line to ``SAMPLERS``; ``--sampler`` and the tests of
all samplers find it there.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass

from optuna.exceptions import ExperimentalWarning
from optuna.samplers import BaseSampler, NSGAIISampler, RandomSampler, TPESampler

from autoq.search.samplers.greedy import GreedySampler
from autoq.search.samplers.ilp import IlpSampler
from autoq.search.samplers.lampq import LampQSampler
from autoq.search.samplers.prior import AllocationPrior
from autoq.search.samplers.progressive import ProgressiveSampler
from autoq.search.samplers.uniform import UniformSampler


@dataclass(frozen=True)
class SamplerKind:
    """A sampler, and what it needs.

    Attributes:
        make: from a seed and the prior to the sampler.
        needs_sensitivities: whether it reads the prior's table, which then has to be measured first.
        ends: whether it runs out of proposals, so that the study ends when it repeats itself; what is proposed at
            random instead would not be its own.
    """

    make: Callable[[int, AllocationPrior], BaseSampler]
    needs_sensitivities: bool = False
    ends: bool = False


def _tpe(seed: int) -> BaseSampler:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)  # multivariate
        return TPESampler(multivariate=True, seed=seed, n_startup_trials=1)


SAMPLERS: dict[str, SamplerKind] = {
    "progressive": SamplerKind(ProgressiveSampler, needs_sensitivities=True),
    "lampq": SamplerKind(LampQSampler, needs_sensitivities=True),
    "ilp": SamplerKind(IlpSampler, needs_sensitivities=True, ends=True),
    "greedy": SamplerKind(GreedySampler, needs_sensitivities=True, ends=True),
    "nsga2": SamplerKind(lambda seed, _: NSGAIISampler(population_size=40, seed=seed)),
    "tpe": SamplerKind(lambda seed, _: _tpe(seed)),
    "random": SamplerKind(lambda seed, _: RandomSampler(seed=seed)),
    "uniform": SamplerKind(UniformSampler, ends=True),
}
"""``--sampler`` to what makes it."""

__all__ = ["SAMPLERS", "AllocationPrior", "ProgressiveSampler", "SamplerKind"]
