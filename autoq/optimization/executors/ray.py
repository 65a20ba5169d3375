"""Evaluation by actors of a Ray cluster: one that exists (``--address``), or one that is started on this machine."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import time
import warnings
from collections import deque
from importlib import import_module
from typing import Any, Self

from autoq.errors import AutoqError, InputError, RunError
from autoq.optimization.executors._base import (
    AnyJob,
    BaseExecutor,
    ExecutorContext,
    Lost,
    Outcome,
    Worker,
    WorkerSpecification,
    capacity_of,
)

_MOST_FAILED_STARTS = 3
"""Workers in a row that end before they are ready, after which no more are started."""
_LONELY_SECONDS = 30.0
"""After which the driver says that the cluster has given it no worker."""
_REACHED_SECONDS = 20.0
"""After which the port of a cluster counts as unreachable."""
_logger = logging.getLogger(__name__)


class RayExecutor(BaseExecutor):
    """Evaluates in actors, each with one CPU (and one GPU where the driver has one); one that ends is replaced.

    The cluster decides where they are, and starts as many as it has room for; the others follow when there is. A job
    is lost with its actor or its node. Actors end with the driver.
    """

    def __init__(
        self, specification: WorkerSpecification, workers: int, address: str | None = None, uses_gpus: bool = False
    ) -> None:
        """Connect, and ask for the workers.

        Args:
            specification: of each worker.
            workers: how many.
            address: of the cluster, as ``ray.init`` takes it; None: that of ``RAY_ADDRESS``, or one on this machine.
            uses_gpus: whether each worker needs a GPU.

        Raises:
            InputError: Ray is not installed, or there is no cluster at the address.
            RunError: Ray cannot be started.
        """
        self._ray = connect(address, workers)
        self._waiting: deque[AnyJob] = deque()
        self._failed_starts = 0
        self._alone_since: float | None = time.monotonic()
        remote = self._ray.remote(_Actor).options(num_cpus=1, num_gpus=int(uses_gpus))
        self._slots = [_Slot(remote, specification, number) for number in range(workers)]

    @classmethod
    def of(cls, context: ExecutorContext) -> Self:
        """Ask the cluster for as many workers as are wanted."""
        return cls(context.required_specification(), context.workers, context.address, context.uses_gpus)

    @property
    def capacity(self) -> int:
        """One more than there are workers, if there are several; one where there is none yet."""
        return capacity_of(sum(slot.is_ready for slot in self._slots))

    @property
    def has_workers(self) -> bool:
        """Whether the cluster has started a worker."""
        return any(slot.is_ready for slot in self._slots)

    def submit(self, job: AnyJob) -> None:
        """Give a job to an idle worker, or keep it until there is one."""
        self._waiting.append(job)
        self._hand_out()

    def next_result(self, timeout: float | None = None) -> Outcome | None:
        """Wait for an actor to finish, to be ready or to end; see ``BaseExecutor``."""
        deadline = None if timeout is None else time.monotonic() + timeout
        by_reference = {slot.answer: slot for slot in self._slots if slot.answer is not None}
        while by_reference:
            left = _LONELY_SECONDS if deadline is None else max(0.0, deadline - time.monotonic())
            ready, _ = self._ray.wait(list(by_reference), num_returns=1, timeout=min(left, _LONELY_SECONDS))
            if ready:
                back = self._heard(by_reference[ready[0]])
                self._hand_out()
                return back
            self._warn()
            if deadline is not None and time.monotonic() >= deadline:
                break
        return None

    def close(self) -> None:
        """End the actors; the connection to the cluster lasts as long as the process."""
        for slot in self._slots:
            slot.kill(self._ray)
        self._slots.clear()

    def _hand_out(self) -> None:
        for slot in self._slots:
            if self._waiting and slot.is_ready and slot.job is None:
                slot.do(self._waiting.popleft())

    def _heard(self, slot: _Slot) -> Outcome | None:
        """Take what an actor answers: that it is ready or not fit, the outcome of its job, or that it has ended."""
        job = slot.job
        try:
            answer = self._ray.get(slot.answer)
        except self._ray.exceptions.RayError as error:
            return self._ended(slot, next(iter(str(error).splitlines()), type(error).__name__))
        slot.answer = slot.job = None
        if job is not None:
            return answer  # type: ignore[no-any-return]
        if answer is not None:
            raise answer
        slot.is_ready, self._failed_starts, self._alone_since = True, 0, None
        return None

    def _ended(self, slot: _Slot, reason: str) -> Lost | None:
        """Ask for an actor in place of one that has ended, and return its job."""
        if not slot.is_ready:
            self._failed_starts += 1
            if self._failed_starts >= _MOST_FAILED_STARTS:
                raise RunError(f"workers on the Ray cluster end before they are ready, as others did: {reason}")
        job = slot.job
        slot.kill(self._ray)  # one that only cannot be reached must not go on
        slot.start()
        return None if job is None else Lost(job.number, f"worker {slot.number} on Ray ended: {reason}")

    def _warn(self) -> None:
        """Say once if the cluster gives no worker."""
        if self._alone_since is not None and time.monotonic() - self._alone_since >= _LONELY_SECONDS:
            self._alone_since = None
            free = self._ray.available_resources()
            _logger.warning(
                "no worker on the Ray cluster is ready yet; each takes one CPU, and one GPU where the driver has one: "
                "free are %g CPUs and %g GPUs",
                *(free.get("CPU", 0.0), free.get("GPU", 0.0)),
            )


class _Slot:
    """A place for an actor, which has one job at a time.

    Attributes:
        number: of the worker.
        answer: reference to what the actor will answer, or None: it is idle.
        is_ready: whether its worker is built.
        job: that it evaluates, or None.
    """

    def __init__(self, remote: Any, specification: WorkerSpecification, number: int) -> None:
        """Ask for an actor."""
        self._remote, self._specification, self.number = remote, specification, number
        self.start()

    def start(self) -> None:
        """Ask for an actor, and let it build its worker."""
        self._actor = self._remote.remote()
        self.is_ready = False
        self.job: AnyJob | None = None
        self.answer: Any = self._actor.build.remote(self._specification, self.number)

    def do(self, job: AnyJob) -> None:
        """Give the actor a job."""
        self.job, self.answer = job, self._actor.do.remote(job)

    def kill(self, ray: Any) -> None:
        """End the actor, if it has not ended."""
        with contextlib.suppress(ray.exceptions.RayError, ValueError):
            ray.kill(self._actor)


class _Actor:
    """A worker in a process of the cluster."""

    def build(self, specification: WorkerSpecification, slot: int) -> AutoqError | None:
        """Build the worker; return why it is not fit, or None."""
        logging.getLogger("autoq").setLevel(logging.ERROR)  # the driver has warned of the same already
        warnings.simplefilter("ignore")
        try:
            self._worker: Worker = specification.build(slot)
        except AutoqError as error:
            return error if isinstance(error, InputError) else RunError(str(error))
        return None

    def do(self, job: AnyJob) -> Outcome:
        """Evaluate a job."""
        return self._worker.do(job)


def connect(address: str | None, workers: int) -> Any:
    """Connect to a cluster, unless this process is connected already, and return Ray's module.

    Args:
        address: as ``ray.init`` takes it; None: that of ``RAY_ADDRESS``, or else a cluster is started on this machine.
        workers: for which a cluster that is started has room.

    Raises:
        InputError: Ray is not installed, or there is no cluster at the address.
        RunError: Ray cannot be started.
    """
    try:
        ray: Any = import_module("ray")
    except ImportError as error:
        raise InputError("executor 'ray' needs a package: pip install 'autoq[ray]'") from error
    if ray.is_initialized():
        return ray
    quiet = {"log_to_driver": False, "logging_level": logging.ERROR}
    address = address or os.environ.get("RAY_ADDRESS")
    try:
        if address:
            host, _, port = address.removeprefix("ray://").rpartition(":")
            if host and port.isdigit():  # Ray itself tries for minutes
                socket.create_connection((host, int(port)), _REACHED_SECONDS).close()
            ray.init(address=address, **quiet)
        else:
            # Without the dashboard, whose agent keeps the node of a loaded machine from starting in time.
            ray.init(num_cpus=workers, include_dashboard=False, **quiet)
    except (OSError, OverflowError, ValueError, RuntimeError) as error:
        told = next(iter(str(error).splitlines()), type(error).__name__)
        if address:
            raise InputError(
                f"there is no Ray cluster at {address!r} that can be used ({told}): start one by ray start --head, and "
                "give its address by --address"
            ) from error
        raise RunError(f"Ray cannot be started on this machine: {told}") from error
    return ray
