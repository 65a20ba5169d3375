"""Evaluation in worker processes on this machine."""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import os
import signal
import sys
import threading
import warnings
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import connection
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Self

from autoq.errors import AutoqError, InputError, RunError
from autoq.optimization.executors._base import (
    AnyJob,
    BaseExecutor,
    ExecutorContext,
    Lost,
    Outcome,
    WorkerSpecification,
    capacity_of,
)

_MOST_FAILED_STARTS = 3
"""Workers in a row that end before they are ready, after which no more are started."""
_END_SECONDS = 5.0
"""How long a worker has to end when it is told to, before it is killed."""
_METHOD = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
"""Workers are forked, from a process that does nothing but import: neither threads nor a GPU in use are copied."""


@dataclass(frozen=True)
class _Ready:
    """A worker is built."""


@dataclass(frozen=True)
class _Refused:
    """A worker cannot be built, and another one would fare no better.

    Attributes:
        error: that says why.
    """

    error: AutoqError


def import_ahead(modules: Sequence[str]) -> None:
    """Start the process that workers will be forked from, and let it import what they need once for all of them.

    This returns at once. Without it, or where processes cannot be forked (Windows), each worker imports for itself.

    Args:
        modules: names; their import starts no threads of its own and leaves GPUs alone. Those that are not there are
            left out.
    """
    if _METHOD == "forkserver":
        from multiprocessing import forkserver

        with _interrupts_held_back():
            forkserver.set_forkserver_preload(list(modules))
            forkserver.ensure_running()


class ProcessExecutor(BaseExecutor):
    """Evaluates in processes that rebuild the model once; one that ends is replaced.

    One job more than there are workers is taken on, so that a worker need not wait for the next proposal; with one
    worker there is none, and a study takes the course that it takes locally. Interrupts are left to the driver, and
    workers end when the driver does, however that ends.
    """

    def __init__(self, specification: WorkerSpecification, workers: int) -> None:
        """Start the workers.

        Args:
            specification: of each worker.
            workers: how many.
        """
        self._waiting: deque[AnyJob] = deque()
        self._failed_starts = 0
        self._slots: list[_Slot] = []
        try:
            for number in range(workers):
                self._slots.append(_Slot(specification, number))
        except BaseException:
            self.close()
            raise

    @classmethod
    def of(cls, context: ExecutorContext) -> Self:
        """Start as many workers as are wanted."""
        return cls(context.required_specification(), context.workers)

    @property
    def capacity(self) -> int:
        """One more than there are workers, if there are several."""
        return capacity_of(len(self._slots))

    @property
    def is_ready(self) -> bool:
        """Whether a process has built its worker."""
        return any(slot.is_ready for slot in self._slots)

    @property
    def process_ids(self) -> list[int]:
        """The processes of the workers."""
        return [slot.process.pid for slot in self._slots if slot.process.pid is not None]

    def submit(self, job: AnyJob) -> None:
        """Give a job to an idle worker, or keep it until there is one."""
        self._waiting.append(job)
        self._hand_out()

    def next_result(self, timeout: float | None = None) -> Outcome | None:
        """Wait for a worker to be ready, to finish or to end; see ``BaseExecutor``."""
        # A result that was sent before its worker ended is there to be read: pipes come first.
        by_pipe = {slot.pipe: slot for slot in self._slots}
        by_sentinel = {slot.process.sentinel: slot for slot in self._slots}
        ready = connection.wait([*by_pipe, *by_sentinel], timeout)
        if not ready:
            return None
        slot = next((by_pipe[each] for each in ready if isinstance(each, Connection)), None)
        back = self._ended(by_sentinel[ready[0]]) if slot is None else self._heard(slot)  # type: ignore[index]
        self._hand_out()
        return back

    def close(self) -> None:
        """End all workers: idle ones at once, others with their evaluation, after a few seconds in any case."""
        for slot in self._slots:
            slot.pipe.close()
            slot.process.terminate()
        for slot in self._slots:
            slot.process.join(_END_SECONDS)
            if slot.process.is_alive():
                slot.process.kill()
                slot.process.join()
            slot.process.close()
        self._slots.clear()

    def _hand_out(self) -> None:
        for slot in self._slots:
            if self._waiting and slot.is_ready and slot.job is None:
                slot.job = self._waiting.popleft()
                with contextlib.suppress(OSError):  # the worker has ended, as its sentinel will tell
                    slot.pipe.send(slot.job)

    def _heard(self, slot: _Slot) -> Outcome | None:
        try:
            message = slot.pipe.recv()
        except (EOFError, OSError):
            return self._ended(slot)
        if isinstance(message, _Refused):
            raise message.error
        if isinstance(message, _Ready):
            slot.is_ready, self._failed_starts = True, 0
            return None
        slot.job = None
        return message  # type: ignore[no-any-return]

    def _ended(self, slot: _Slot) -> Lost | None:
        """Start a worker in place of one that has ended, and return its job."""
        slot.process.join(_END_SECONDS)
        reason = f"worker process {slot.process.pid} {_how_it_ended(slot.process.exitcode)}"
        if not slot.is_ready:
            self._failed_starts += 1
            if self._failed_starts >= _MOST_FAILED_STARTS:
                raise RunError(
                    f"{reason} before it was ready, as others did: see what it wrote above, and whether memory is "
                    'short (fewer --workers); a script calls autoq.search under if __name__ == "__main__":'
                )
        job = slot.job
        slot.restart()
        return None if job is None else Lost(job.number, reason)


class _Slot:
    """A place for a worker, which has one job at a time.

    Attributes:
        process: of the worker.
        pipe: to it.
        is_ready: whether it is built.
        job: that it evaluates, or None.
    """

    def __init__(self, specification: WorkerSpecification, number: int) -> None:
        """Start a worker with this number."""
        self._specification, self._number = specification, number
        self.job: AnyJob | None = None
        self._start()

    def _start(self) -> None:
        context = multiprocessing.get_context(_METHOD)
        self.pipe, theirs = context.Pipe()
        self.process: BaseProcess = context.Process(  # type: ignore[attr-defined]
            target=_work, args=(self._specification, self._number, theirs), daemon=True
        )
        self.is_ready, self.job = False, None
        with _interrupts_held_back():
            self.process.start()
        theirs.close()

    def restart(self) -> None:
        """Start a worker in place of one that has ended."""
        if self.process.is_alive():
            self.process.kill()
        self.process.join()
        self.pipe.close()
        self.process.close()
        self._start()


def _work(specification: WorkerSpecification, number: int, pipe: Connection) -> None:
    """Evaluate jobs until the driver ends, or says so: what a worker process does."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())  # not at once: semaphores are given back
    threading.Thread(target=_end_with_driver, daemon=True).start()
    try:
        _evaluate(specification, number, pipe)
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # it ends already


def _evaluate(specification: WorkerSpecification, number: int, pipe: Connection) -> None:
    """Build a worker, and evaluate what the pipe gives until it is closed."""
    logging.getLogger("autoq").setLevel(logging.ERROR)  # the driver has warned of the same already
    warnings.simplefilter("ignore")
    try:
        worker = specification.build(number)
    except AutoqError as error:
        pipe.send(_Refused(error if isinstance(error, InputError) else RunError(str(error))))
        return
    pipe.send(_Ready())
    with contextlib.suppress(EOFError, OSError):
        while True:
            pipe.send(worker.do(pipe.recv()))


def _end_with_driver() -> None:
    """End this process as soon as the driver has ended, in the middle of an evaluation if need be."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
        os._exit(1)


@contextmanager
def _interrupts_held_back() -> Iterator[None]:
    """Start processes in a ``with`` block that no interrupt reaches, from their first moment on."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    from multiprocessing import resource_tracker

    resource_tracker.ensure_running()  # else it is started with the first process, and lets signals through again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _how_it_ended(status: int | None) -> str:
    if status is not None and status < 0:
        return f"was killed by signal {-status}"
    return f"ended with status {status}"
