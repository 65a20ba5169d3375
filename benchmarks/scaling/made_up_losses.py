"""Losses of recipes without a model: sums of option losses with errors that the prior does not know, to a power.

Nothing here imports PyTorch, so that a machine holds hundreds of workers that only sleep.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Mapping
from dataclasses import dataclass

from autoq.optimization.executors._base import Worker
from autoq.optimization.objective import Evaluation, KeepGoing
from autoq.recipe import SiteConfig


@dataclass(frozen=True)
class MadeUpLosses:
    """The loss of a recipe without a model; what workers are built from, too.

    Attributes:
        seed: of the errors that the prior does not know.
        seconds: that an evaluation takes.
    """

    seed: int = 0
    seconds: float = 0.0

    def option(self, site: str, operand: str, bits: int) -> float:
        """Return what the prior knows of an option."""
        sensitivity = math.exp(random.Random(f"{site}:{operand}").gauss(0, 1.0))
        return sensitivity * 4.0**-bits

    def __call__(self, sites: Mapping[str, SiteConfig], keep_going: KeepGoing | None = None) -> Evaluation:
        """Return the loss of a recipe."""
        del keep_going
        time.sleep(self.seconds)
        total = 0.0
        for site, operands in sites.items():
            for operand, config in operands.items():
                error = random.Random(f"{self.seed}:{site}:{operand}:{config.bits}").gauss(0, 0.7)
                total += self.option(site, operand, config.bits) * math.exp(error)
        return Evaluation(total**1.2, None)

    def build(self, slot: int) -> Worker:
        """Build a worker."""
        return Worker(self, f"worker-{slot}")
