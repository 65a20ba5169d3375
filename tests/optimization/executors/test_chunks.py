"""Chunks without workers, and before there are any; the contract of executors has the rest."""

from __future__ import annotations

import time
from pathlib import Path

from autoq.optimization.executors.chunks import ChunkRunner
from autoq.optimization.executors.directory import DirectoryExecutor
from autoq.optimization.executors.processes import ProcessExecutor
from tests.contracts.executors import SECONDS
from tests.optimization.executors.simulated import SimulatedChunk, SimulatedSpecification

SPECIFICATION = SimulatedSpecification()
OWN = -1
CHUNKS = [SimulatedChunk(number) for number in range(4)]
IN_ORDER = [(number, (number, -1)) for number in range(4)]


def test_without_an_executor_the_driver_does_them_in_order() -> None:
    runner = ChunkRunner(OWN)
    assert not runner.is_shared
    assert list(runner.run(iter(CHUNKS))) == IN_ORDER
    assert list(runner.run([])) == []


def test_the_driver_does_not_wait_for_workers(tmp_path: Path) -> None:
    """Nobody has started a worker for the shared directory."""
    with DirectoryExecutor(SPECIFICATION, tmp_path / "jobs") as executor:
        assert not executor.is_ready
        runner = ChunkRunner(OWN, executor)
        assert list(runner.run(CHUNKS)) == IN_ORDER
        assert runner.is_shared
        assert not runner.alone().is_shared
        assert list(runner.alone().run(CHUNKS)) == IN_ORDER


def test_workers_that_are_being_started_are_waited_for(tmp_path: Path) -> None:
    with ProcessExecutor(SPECIFICATION, 1) as executor:
        started = time.monotonic()
        ChunkRunner(OWN, executor).await_worker(10 * SECONDS)
        assert executor.is_ready
        assert time.monotonic() - started < 10 * SECONDS, "and not longer"
    with DirectoryExecutor(SPECIFICATION, tmp_path / "jobs") as executor:
        ChunkRunner(OWN, executor).await_worker(SECONDS)
        assert not executor.is_ready, "and nobody is starting any"
    with ProcessExecutor(SimulatedSpecification(build_seconds=SECONDS), 1) as executor:
        ChunkRunner(OWN, executor).await_worker(0.1)
        assert not executor.is_ready, "but not for ever"
    ChunkRunner(OWN).await_worker(SECONDS)


class Vanishing(DirectoryExecutor):
    """Its only worker is gone as soon as it has been given a chunk, and what it was given never comes back."""

    @property
    def is_ready(self) -> bool:
        return not self._jobs


def test_what_nobody_is_left_to_do_is_done_by_the_driver(tmp_path: Path) -> None:
    with Vanishing(SPECIFICATION, tmp_path / "jobs") as executor:
        assert sorted(ChunkRunner(OWN, executor).run(CHUNKS)) == IN_ORDER
