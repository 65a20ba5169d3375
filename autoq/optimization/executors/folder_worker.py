"""A worker that shares a folder with its driver: what ``autoq worker`` does."""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Callable
from pathlib import Path

from autoq.errors import AutoqError
from autoq.optimization.executors._base import Worker, WorkerSpecification
from autoq.optimization.executors.job_folder import JobFolder, Pulse, beating, read_object, write_object

_GONE_SECONDS = 60.0
"""A driver that has not changed its file for so long counts as ended."""
_POLL_SECONDS = 0.1

Prepare = Callable[[WorkerSpecification], WorkerSpecification]


def work_in(folder: Path, wait_seconds: float, prepare: Prepare = lambda given: given, slot: int = 0) -> int | None:
    """Evaluate the jobs in a folder until its driver is done, and for drivers that follow one that was interrupted.

    Args:
        folder: shared with the driver.
        wait_seconds: how long to wait for a driver, at first and after one has ended.
        prepare: changes what a driver has left for its workers to what holds on this machine.
        slot: number of this worker on its machine.

    Returns:
        How many jobs were done; None: no driver came.

    Raises:
        WorkerRefusedError: this worker does not have what the driver has.
        AutoqError: it cannot be built.
    """
    done, deadline = 0, time.monotonic() + wait_seconds
    finished: Path | None = None
    while time.monotonic() < deadline:
        if finished is not None and JobFolder.is_over(folder):
            break
        jobs = JobFolder.current(folder)
        if jobs is None or jobs.path == finished:
            time.sleep(_POLL_SECONDS)
            continue
        done += _serve(jobs, prepare, slot)
        finished, deadline = jobs.path, time.monotonic() + wait_seconds
    return None if finished is None else done


def _serve(jobs: JobFolder, prepare: Prepare, slot: int) -> int:
    """Evaluate the jobs of one driver until it ends."""
    name = f"{socket.gethostname()}-{os.getpid()}"
    try:
        worker = prepare(read_object(jobs.specification)).build(slot)
    except FileNotFoundError:
        return 0
    except AutoqError as error:
        with contextlib.suppress(OSError):
            write_object(jobs.refused / name, str(error))
        raise
    pulse, done = Pulse(), 0
    with contextlib.suppress(FileNotFoundError), beating(jobs.workers / name):  # the driver has ended
        while jobs.specification.exists() and pulse.seconds(jobs.driver) < _GONE_SECONDS:
            done += _evaluate_next(jobs, worker, name)
    return done


def _evaluate_next(jobs: JobFolder, worker: Worker, name: str) -> int:
    """Evaluate a job, if there is one; put it back if this process is told to end meanwhile."""
    claimed = jobs.claim(name)
    if claimed is None:
        time.sleep(_POLL_SECONDS)
        return 0
    job = claimed.name.partition("@")[0]
    try:
        outcome = worker.do(read_object(claimed))
    except (SystemExit, KeyboardInterrupt):
        with contextlib.suppress(FileNotFoundError):
            claimed.rename(jobs.open / job)
        raise
    write_object(jobs.done / job, outcome)
    claimed.unlink(missing_ok=True)
    return 1
