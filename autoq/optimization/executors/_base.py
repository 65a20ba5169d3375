"""Jobs, what becomes of them, workers, and the base of executors.

A job is a recipe to evaluate, or a chunk of another phase of a run: of calibration, say.
"""

from __future__ import annotations

import math
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

from autoq.errors import AutoqError, NonFiniteError
from autoq.optimization.objective import Evaluation, Objective
from autoq.recipe import SiteConfig


@dataclass(frozen=True)
class Job:
    """A recipe to evaluate.

    Attributes:
        number: tells the jobs of a driver apart.
        sites: the recipe, in canonical form.
        stop_above: where the loss over the first images is greater, the others are not evaluated.
    """

    number: int
    sites: Mapping[str, SiteConfig]
    stop_above: float = math.inf


class Chunk(Protocol):
    """A part of a phase, which any worker can do: small, and picklable."""

    def run(self, state: Any) -> Any:
        """Do it with what a worker works on, and return what is picklable."""


@dataclass(frozen=True)
class ChunkJob:
    """A chunk to do.

    Attributes:
        number: tells the jobs of a driver apart.
        chunk: what to do.
    """

    number: int
    chunk: Chunk


AnyJob = Job | ChunkJob


@dataclass(frozen=True)
class Result:
    """The outcome of a recipe.

    Attributes:
        number: of the job.
        evaluation: what was measured; None: the recipe has no finite loss.
        first_loss: over the first images, where these are not all.
        error: why there is no evaluation.
        seconds: that the evaluation took.
        worker: host and process that evaluated, or empty: the driver itself.
        hardware: that the worker ran on, or empty.
    """

    number: int
    evaluation: Evaluation | None
    first_loss: float | None = None
    error: str | None = None
    seconds: float = 0.0
    worker: str = ""
    hardware: str = ""


@dataclass(frozen=True)
class Done:
    """The outcome of a chunk.

    Attributes:
        number: of the job.
        value: what it returned.
        worker: host and process that did it, or empty: the driver itself.
    """

    number: int
    value: Any
    worker: str = ""


@dataclass(frozen=True)
class Lost:
    """A job whose outcome is unknown: its worker ended, or failed for a reason that need not be the recipe's.

    Attributes:
        number: of the job.
        reason: why, in a line.
    """

    number: int
    reason: str


Outcome = Result | Done | Lost


@dataclass(frozen=True)
class Worker:
    """What does jobs: an objective with its model in memory.

    Attributes:
        objective: measures recipes.
        name: host and process, or empty: the driver itself.
        hardware: that the objective runs on, or empty.
        state: what chunks work on.
    """

    objective: Objective
    name: str = ""
    hardware: str = ""
    state: Any = None

    def do(self, job: AnyJob) -> Outcome:
        """Do a job; one that the model, memory or device does not survive is lost.

        Raises:
            AutoqError: the driver itself cannot do it; with other workers, it is lost.
        """
        try:
            if isinstance(job, ChunkJob):
                return Done(job.number, job.chunk.run(self.state), self.name)
            return self._evaluated(job)
        except AutoqError as error:
            if not self.name:
                raise
            return _lost(job, error)
        except (RuntimeError, MemoryError) as error:  # PyTorch's, of memory and of devices, are RuntimeErrors
            return _lost(job, error)

    def _evaluated(self, job: Job) -> Result:
        """Evaluate a recipe."""
        first_loss: float | None = None

        def keep_going(loss: float) -> bool:
            nonlocal first_loss
            first_loss = loss
            return not loss > job.stop_above

        started = time.monotonic()
        evaluation, failure = None, None
        try:
            evaluation = self.objective(job.sites, keep_going)
            if not math.isfinite(evaluation.loss):
                raise NonFiniteError(f"the discrepancy is {evaluation.loss}")
        except NonFiniteError as error:
            evaluation, failure = None, str(error)
        seconds = time.monotonic() - started
        return Result(job.number, evaluation, first_loss, failure, seconds, self.name, self.hardware)


def _lost(job: AnyJob, error: Exception) -> Lost:
    return Lost(job.number, f"{type(error).__name__}: {next(iter(str(error).splitlines()), '')}")


class WorkerSpecification(Protocol):
    """What a worker is rebuilt from in another process: small, and picklable."""

    def build(self, slot: int) -> Worker:
        """Build a worker.

        Args:
            slot: the worker's number among those of its executor on its machine, from 0; chooses a device.

        Raises:
            WorkerRefusedError: what the worker finds is not what the driver has.
            AutoqError: it cannot be built.
        """


@dataclass(frozen=True)
class ExecutorContext:
    """What executors are made of.

    Attributes:
        objective: the driver's own.
        specification: of workers; None where they cannot be rebuilt.
        workers: how many are wanted.
        folder: where the driver and workers may leave files for each other.
        address: of a cluster, or None.
        uses_gpus: whether each worker needs a GPU.
    """

    objective: Objective
    specification: WorkerSpecification | None = None
    workers: int = 1
    folder: Path | None = None
    address: str | None = None
    uses_gpus: bool = False

    def required_specification(self) -> WorkerSpecification:
        """Return the specification of workers, which the caller has made sure of."""
        assert self.specification is not None  # noqa: S101
        return self.specification


def capacity_of(workers: int) -> int:
    """Return how many jobs keep workers busy: one more, so that none waits for the next proposal.

    One with one worker, so that a study takes the course that it takes locally; one where there is none yet.
    """
    return workers + 1 if workers > 1 else 1


class BaseExecutor(ABC):
    """Has jobs done, one or several at a time, in any order.

    Each job that was submitted comes back once: as a ``Result`` (``Done`` for a chunk), or as ``Lost``. A lost one may
    be submitted again.
    """

    @classmethod
    @abstractmethod
    def of(cls, context: ExecutorContext) -> Self:
        """Make the executor for a study."""

    @property
    @abstractmethod
    def capacity(self) -> int:
        """How many jobs may be submitted and not yet back; may change while the executor is used."""

    @property
    def has_workers(self) -> bool:
        """Whether there is a worker, or will be: without one, what was submitted need not come back."""
        return True

    @property
    def is_ready(self) -> bool:
        """Whether a worker is built."""
        return self.has_workers

    @abstractmethod
    def submit(self, job: AnyJob) -> None:
        """Take a job on."""

    @abstractmethod
    def next_result(self, timeout: float | None = None) -> Outcome | None:
        """Wait for the next job to come back.

        Args:
            timeout: seconds after which to give up; None: never.

        Returns:
            What became of a job, or None: nothing came back in time, or a worker has got ready or has gone.

        Raises:
            WorkerRefusedError: a worker is not fit for this study.
            RunError: no worker can be started.
        """

    @abstractmethod
    def close(self) -> None:
        """End the workers; jobs that are not back are given up."""

    def __enter__(self) -> Self:
        """Return the executor."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Close the executor."""
        self.close()
