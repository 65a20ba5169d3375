"""Evaluation in the process of the driver, one recipe after the other."""

from __future__ import annotations

from typing import Self

from autoq.optimization.executors._base import AnyJob, BaseExecutor, ExecutorContext, Outcome, Worker
from autoq.optimization.objective import Objective


class LocalExecutor(BaseExecutor):
    """Evaluates one job at a time, when its result is asked for: a study with a seed always takes the same course."""

    def __init__(self, objective: Objective) -> None:
        """Evaluate by ``objective``."""
        self._worker = Worker(objective)
        self._jobs: list[AnyJob] = []

    @classmethod
    def of(cls, context: ExecutorContext) -> Self:
        """Evaluate by the driver's own objective."""
        return cls(context.objective)

    @property
    def capacity(self) -> int:
        """One."""
        return 1

    def submit(self, job: AnyJob) -> None:
        """Keep a job until its result is asked for."""
        self._jobs.append(job)

    def next_result(self, timeout: float | None = None) -> Outcome | None:  # noqa: ARG002
        """Evaluate the job that was submitted first, or return None if there is none."""
        return self._worker.do(self._jobs.pop(0)) if self._jobs else None

    def close(self) -> None:
        """Forget jobs whose result was not asked for."""
        self._jobs.clear()
