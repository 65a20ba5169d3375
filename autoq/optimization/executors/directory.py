"""Evaluation by workers that share a folder with the driver, on any machines (``autoq worker``)."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Collection
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

from autoq.optimization.executors._base import (
    AnyJob,
    BaseExecutor,
    ExecutorContext,
    Lost,
    Outcome,
    WorkerSpecification,
    capacity_of,
)
from autoq.optimization.executors.job_folder import JobFolder, Pulse, beating, names, read_object, write_object

FOLDER = "jobs"
"""The folder in a run directory."""
_LOST_SECONDS = 60.0
"""A worker that has not changed its file for so long counts as ended."""
_LONELY_SECONDS = 30.0
"""After which the driver says that it waits for workers."""
_POLL_SECONDS = 0.05
_logger = logging.getLogger(__name__)


class DirectoryExecutor(BaseExecutor):
    """Leaves jobs in a folder; workers come and go as they like, started by hand or by a scheduler.

    A job is lost when its worker has ended: it has put it back, or has given no sign for a minute. A worker that is not
    fit says so and ends; the driver warns, and goes on with the others.
    """

    def __init__(self, specification: WorkerSpecification, folder: Path) -> None:
        """Make the folder of this driver.

        Args:
            specification: of each worker.
            folder: shared with the workers; what drivers that have ended left there is removed.
        """
        self._folder = JobFolder.begun(folder, specification)
        self._shown = folder.parent
        self._jobs: dict[str, AnyJob] = {}
        self._count = 0
        self._pulse = Pulse()
        self._warned: set[str] = set()
        self._alone_since: float | None = time.monotonic()
        self._beating = ExitStack()
        self._beating.enter_context(beating(self._folder.driver))

    @classmethod
    def of(cls, context: ExecutorContext) -> Self:
        """Share the run directory."""
        assert context.folder is not None  # noqa: S101
        return cls(context.required_specification(), context.folder / FOLDER)

    @property
    def capacity(self) -> int:
        """One more than there are workers, if there are several; one where there is none yet."""
        return capacity_of(len(self._living()))

    @property
    def has_workers(self) -> bool:
        """Whether a worker gives signs of life."""
        return bool(self._living())

    def submit(self, job: AnyJob) -> None:
        """Leave a job for the next worker that is idle."""
        name = f"{self._count:09d}"  # another one each time, so that a late outcome is told apart
        self._count += 1
        self._jobs[name] = job
        write_object(self._folder.open / name, job)

    def next_result(self, timeout: float | None = None) -> Outcome | None:
        """Wait for an outcome; see ``BaseExecutor``."""
        workers = len(self._living())
        deadline = None if timeout is None else time.monotonic() + timeout
        while deadline is None or time.monotonic() < deadline:
            if (back := self._outcome()) is not None:
                return back
            living = self._living()
            if (lost := self._lost(living)) is not None:
                return lost
            self._warn(len(living))
            if len(living) > workers:
                return None
            time.sleep(_POLL_SECONDS)
        return None

    def close(self) -> None:
        """Remove the folder; workers wait a while for another driver, as after an interrupt."""
        self._end(is_last=False)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Remove the folder, and where nothing has gone wrong end the workers too."""
        self._end(is_last=kind is None)

    def _end(self, is_last: bool) -> None:
        self._beating.close()
        self._folder.remove(is_last)

    def _living(self) -> set[str]:
        folder = self._folder.workers
        return {name for name in names(folder) if self._pulse.seconds(folder / name) < _LOST_SECONDS}

    def _outcome(self) -> Outcome | None:
        """Read the outcome of a job, and drop those of jobs that were taken for lost."""
        for name in names(self._folder.done):
            path = self._folder.done / name
            outcome: Outcome = read_object(path)
            path.unlink()
            if self._jobs.pop(name, None) is not None:
                return outcome
        return None

    def _lost(self, living: Collection[str]) -> Lost | None:
        """Find a job whose worker has ended without a word."""
        for claim in names(self._folder.claimed):
            name, _, worker = claim.partition("@")
            finished = (self._folder.done / name).exists()  # written before the claim is given up
            if worker not in living and not finished and name in self._jobs:
                with contextlib.suppress(FileNotFoundError):  # put back or finished at this moment
                    (self._folder.claimed / claim).unlink()
                    return Lost(self._jobs.pop(name).number, f"worker {worker} gave no sign any more")
        return None

    def _warn(self, living: int) -> None:
        """Pass on what workers say that are not fit, and say if there is none."""
        for name in names(self._folder.refused):
            if name not in self._warned:
                self._warned.add(name)
                _logger.warning("%s", read_object(self._folder.refused / name))
        if living:
            self._alone_since = time.monotonic()
        elif self._alone_since is not None and time.monotonic() - self._alone_since > _LONELY_SECONDS:
            self._alone_since = None  # once
            _logger.warning("no worker is there: start one or more by autoq worker %s", self._shown)
