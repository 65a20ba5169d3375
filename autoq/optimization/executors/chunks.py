"""Phases that are done in chunks, by the workers of an executor or by the driver itself."""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import Iterable, Iterator
from typing import Any

from autoq.optimization.executors._base import BaseExecutor, Chunk, ChunkJob, Done

_LOOK_SECONDS = 1.0
"""How often it is looked whether workers have come or gone."""
_logger = logging.getLogger(__name__)


class ChunkRunner:
    """Has chunks done: by workers as soon as one is ready, until then by the driver.

    A chunk that is lost with its worker, or whose worker is gone, is done by the driver.
    """

    def __init__(self, state: Any, executor: BaseExecutor | None = None) -> None:
        """Share chunks between workers.

        Args:
            state: what chunks work on in the driver.
            executor: of other workers; None: there are none.
        """
        self._state, self._executor = state, executor
        self._numbers = itertools.count(-1, -1)  # those of recipes count up

    @property
    def is_shared(self) -> bool:
        """Whether there are, or will be, other workers than the driver."""
        return self._executor is not None

    def alone(self) -> ChunkRunner:
        """Return one that leaves everything to the driver."""
        return ChunkRunner(self._state)

    def await_worker(self, seconds: float) -> None:
        """Wait until a worker is ready, if any is being started, and no longer than this."""
        deadline = time.monotonic() + seconds
        while (executor := self._executor) is not None and executor.has_workers and not executor.is_ready:
            if (left := deadline - time.monotonic()) <= 0:
                return
            executor.next_result(left)

    def run(self, chunks: Iterable[Chunk]) -> Iterator[tuple[int, Any]]:
        """Do chunks, and yield the position and the value of each as soon as it is done.

        Args:
            chunks: iterated over as workers become idle.

        Raises:
            AutoqError: the driver itself cannot do one.
            WorkerRefusedError: a worker is not fit for this run.
            RunError: no worker can be started.
        """
        waiting = enumerate(chunks)
        if self._executor is None:
            for position, chunk in waiting:
                yield position, chunk.run(self._state)
        else:
            yield from self._shared(waiting, self._executor)

    def _shared(self, waiting: Iterator[tuple[int, Chunk]], executor: BaseExecutor) -> Iterator[tuple[int, Any]]:
        flying: dict[int, tuple[int, Chunk]] = {}
        is_over = False
        while True:
            while executor.is_ready and len(flying) < executor.capacity and not is_over:
                if (following := next(waiting, None)) is None:
                    is_over = True
                else:
                    number = next(self._numbers)
                    flying[number] = following
                    executor.submit(ChunkJob(number, following[1]))
            mine = None
            if not executor.is_ready:
                mine = next(waiting, None) or (flying.popitem()[1] if flying else None)
            if mine is None and not flying:
                return
            back = executor.next_result(_LOOK_SECONDS if mine is None else 0.0)
            if back is not None and back.number in flying:
                position, chunk = flying.pop(back.number)
                if isinstance(back, Done):
                    yield position, back.value
                else:
                    _logger.warning("a part of a phase was lost, and is done by the driver: %s", back)
                    yield position, chunk.run(self._state)
            if mine is not None:
                yield mine[0], mine[1].run(self._state)
