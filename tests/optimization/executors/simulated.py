"""Workers without a model: made-up losses, and recipes that end or stop their worker."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from autoq.errors import NonFiniteError, RecipeError, WorkerRefusedError
from autoq.optimization.executors._base import Worker
from autoq.optimization.objective import Evaluation, KeepGoing
from autoq.recipe import SiteConfig, hash_sites

Fate = Literal["kill", "memory", "nan", "hang"]


def made_up_loss(sites: Mapping[str, SiteConfig]) -> float:
    """Later sites matter less, and groups are worth a bit."""
    return sum(
        4.0 ** -(config.bits + (config.groups > 1)) / (1 + index)
        for index, operands in enumerate(sites.values())
        for config in operands.values()
    )


@dataclass(frozen=True)
class SimulatedChunk:
    """A chunk whose value tells who has done it.

    Attributes:
        number: of the chunk.
        fate: what becomes of it in a worker; the driver, whose state is None, always does it.
    """

    number: int
    fate: Literal["", "kill", "memory", "refused"] = ""

    def run(self, state: int | None) -> tuple[int, int | None]:
        if self.fate == "refused":
            raise RecipeError("no such site")
        if state is not None and self.fate == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if state is not None and self.fate == "memory":
            raise RuntimeError("cannot allocate 1 TB")
        return self.number, state


@dataclass(frozen=True)
class SimulatedSpecification:
    """What simulated workers are built from.

    Attributes:
        fates: what becomes of some recipes, by their hash: they kill the worker, find no memory, lose no finite number
            or take for ever.
        seconds: that an evaluation takes.
        refused: whether workers find that they are not fit.
        crashes: whether workers end before they are built.
        build_seconds: that building takes.
    """

    fates: Mapping[str, Fate] = field(default_factory=dict)
    seconds: float = 0.0
    refused: bool = False
    crashes: bool = False
    build_seconds: float = 0.0

    def build(self, slot: int) -> Worker:
        if self.refused:
            raise WorkerRefusedError("worker a:1 does not have what the driver has: torch (was '2', is '3')")
        if self.crashes:
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(self.build_seconds)
        return Worker(self.measure, f"host:{slot}", "simulated", state=slot)

    def measure(self, sites: Mapping[str, SiteConfig], keep_going: KeepGoing | None = None) -> Evaluation:
        fate = self.fates.get(hash_sites(sites))
        time.sleep(1000.0 if fate == "hang" else self.seconds)
        if fate == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if fate == "memory":
            raise RuntimeError("cannot allocate 1 TB\nwith a long explanation")
        if fate == "nan":
            raise NonFiniteError("head is not finite")
        loss = made_up_loss(sites)
        if keep_going is not None and not keep_going(2 * loss):
            return Evaluation(2 * loss, None, is_complete=False)
        return Evaluation(loss, None)


@dataclass(frozen=True)
class ImportSpecification:
    """Workers whose hardware is called after the modules that they had from the start.

    Attributes:
        modules: that are looked for.
    """

    modules: tuple[str, ...]

    def build(self, slot: int) -> Worker:
        found = " ".join(name for name in self.modules if name in sys.modules)
        return Worker(SimulatedSpecification().measure, f"host:{slot}", found)
