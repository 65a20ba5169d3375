"""An executor that has several jobs in flight in one process."""

from __future__ import annotations

import random
from typing import Self

from autoq.optimization.executors._base import AnyJob, BaseExecutor, ExecutorContext, Outcome, Worker
from benchmarks.scaling.made_up_losses import MadeUpLosses


class InFlightExecutor(BaseExecutor):
    """Has several jobs in flight, which come back in a random order that a seed decides."""

    def __init__(self, objective: MadeUpLosses, in_flight: int, seed: int) -> None:
        """Take ``in_flight`` jobs at once."""
        self._worker, self._in_flight = Worker(objective), in_flight
        self._rng = random.Random(seed)
        self._jobs: list[AnyJob] = []

    @classmethod
    def of(cls, context: ExecutorContext) -> Self:
        """Not made by name."""
        raise NotImplementedError

    @property
    def capacity(self) -> int:
        """As many as were asked for."""
        return self._in_flight

    def submit(self, job: AnyJob) -> None:
        """Keep a job."""
        self._jobs.append(job)

    def next_result(self, timeout: float | None = None) -> Outcome | None:
        """Evaluate one of the jobs."""
        del timeout
        return self._worker.do(self._jobs.pop(self._rng.randrange(len(self._jobs))))

    def close(self) -> None:
        """Forget the rest."""
        self._jobs.clear()
