"""Optuna samplers by name.

To add one, write a ``BaseSampler`` in a file of its own and add a line to ``SAMPLERS``; ``--sampler``, its help and the
tests of all samplers find it there. Samplers are imported when they are made, not before: the help needs no Optuna.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from autoq.errors import SpaceError
from autoq.registry import Registry, imported

if TYPE_CHECKING:
    from optuna.samplers import BaseSampler

    from autoq.optimization.samplers.prior import AllocationPrior
    from autoq.optimization.samplers.progressive import ProgressiveSampler


@dataclass(frozen=True)
class SamplerEntry:
    """A sampler, and what it needs.

    Attributes:
        description: what it does, in a few words, for ``--help``.
        make: from a seed and the prior to the sampler.
        needs_sensitivities: whether it reads the prior's losses, which then have to be measured first.
        is_finite: whether it runs out of proposals, so that the study ends when it repeats itself; what is proposed at
            random instead would not be its own.
    """

    description: str
    make: Callable[[int, AllocationPrior], BaseSampler]
    needs_sensitivities: bool = False
    is_finite: bool = False


SAMPLERS: Registry[SamplerEntry] = Registry(
    "sampler",
    SpaceError,
    {
        "progressive": SamplerEntry(
            "exact allocations, then whole recipes near the front by a Gaussian process",
            imported(f"{__name__}.progressive", "ProgressiveSampler"),
            needs_sensitivities=True,
        ),
        "lampq": SamplerEntry(
            "allocations improved by swaps of a bit",
            imported(f"{__name__}.lampq", "LampQSampler"),
            needs_sensitivities=True,
        ),
        "ilp": SamplerEntry(
            "exact allocations alone",
            imported(f"{__name__}.ilp", "IlpSampler"),
            needs_sensitivities=True,
            is_finite=True,
        ),
        "greedy": SamplerEntry(
            "least sensitive options first",
            imported(f"{__name__}.greedy", "GreedySampler"),
            needs_sensitivities=True,
            is_finite=True,
        ),
        "nsga2": SamplerEntry("Optuna's evolutionary search", imported(f"{__name__}.from_optuna", "nsga2")),
        "tpe": SamplerEntry("Optuna's tree of Parzen estimators", imported(f"{__name__}.from_optuna", "tpe")),
        "random": SamplerEntry("random recipes", imported(f"{__name__}.from_optuna", "random")),
        "uniform": SamplerEntry(
            "one width for weights and one for activations",
            imported(f"{__name__}.uniform", "UniformSampler"),
            is_finite=True,
        ),
    },
)
"""Samplers by the name that ``--sampler`` takes."""

_LAZY = {"AllocationPrior": "prior", "ProgressiveSampler": "progressive"}

__all__ = ["SAMPLERS", "AllocationPrior", "ProgressiveSampler", "SamplerEntry"]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_LAZY[name]}"), name)
