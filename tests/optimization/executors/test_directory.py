"""Workers that share a folder: each started by itself, killed, told to end, and late."""

from __future__ import annotations

import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import autoq.optimization.executors.directory as directory_module
import autoq.optimization.study as study_module
from autoq.optimization.executors._base import BaseExecutor, Job, Lost, Result
from autoq.optimization.executors.directory import FOLDER, DirectoryExecutor
from autoq.optimization.executors.folder_worker import work_in
from autoq.optimization.executors.job_folder import JobFolder, Pulse, names, read_object, write_object
from autoq.recipe import hash_sites
from tests.contracts.executors import SECONDS, ExecutorContract, recipe
from tests.optimization.executors.simulated import SimulatedSpecification
from tests.optimization.test_study import Problem

WORKER = """
    import signal, sys
    from pathlib import Path
    import autoq.optimization.executors.job_folder as job_folder
    from autoq.optimization.executors.folder_worker import work_in
    job_folder.BEAT_SECONDS = 0.1
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    try:
        work_in(Path(sys.argv[1]), float(sys.argv[2]))
    except Exception:
        sys.exit(1)
"""


def worker_command(folder: Path, wait: float = 20.0) -> list[str]:
    return [sys.executable, "-c", textwrap.dedent(WORKER), str(folder / FOLDER), str(wait)]


class Scheduler:
    """Starts workers, and others in place of those that are killed."""

    def __init__(self, folder: Path, workers: int) -> None:
        self._stop = folder / "stop"
        # One that is refused ends the loop.
        survive = 'while [ ! -e "$0" ]; do "$@"; [ $? = 137 ] || exit; done'
        self.processes = [
            subprocess.Popen(["bash", "-c", survive, str(self._stop), *worker_command(folder)]) for _ in range(workers)
        ]

    def end(self) -> None:
        self._stop.touch()
        for process in self.processes:
            process.terminate()
            process.wait(SECONDS)


@pytest.fixture
def schedulers(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Scheduler]]:
    monkeypatch.setattr(directory_module, "_LOST_SECONDS", 3.0)
    started: list[Scheduler] = []
    yield started
    for each in started:
        each.end()


class TestDirectory(ExecutorContract):
    name = "directory"
    counts_the_dead = True

    @pytest.fixture(autouse=True)
    def _scheduled(self, schedulers: list[Scheduler]) -> None:
        self.schedulers = schedulers

    def make(self, specification: SimulatedSpecification, folder: Path, workers: int | None = None) -> BaseExecutor:
        executor = super().make(specification, folder, workers)
        self.schedulers.append(Scheduler(folder, workers or self.workers))
        return executor

    def test_a_worker_that_is_not_fit_is_refused(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        """It ends, and the others go on."""
        with self.make(SimulatedSpecification(refused=True), tmp_path) as executor:
            executor.submit(Job(0, recipe(2)))
            deadline = time.monotonic() + SECONDS
            while "torch (was '2', is '3')" not in caplog.text:
                assert executor.next_result(0.1) is None
                assert time.monotonic() < deadline


def test_a_job_is_put_back_by_a_worker_that_is_told_to_end(tmp_path: Path) -> None:
    hanging = SimulatedSpecification({hash_sites(recipe(8)): "hang"})
    with DirectoryExecutor(hanging, tmp_path / FOLDER) as executor:
        executor.submit(Job(0, recipe(8)))
        folder = JobFolder.current(tmp_path / FOLDER)
        assert folder is not None
        with subprocess.Popen(worker_command(tmp_path)) as worker:
            while not names(folder.claimed):
                assert worker.poll() is None
                time.sleep(0.05)
            assert names(folder.open) == []
            worker.terminate()
            assert worker.wait(SECONDS) == 0
        assert (names(folder.open), names(folder.claimed), names(folder.workers)) == (["000000000"], [], [])
        assert executor.next_result(0.2) is None, "not lost"


def test_a_late_outcome_is_dropped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a worker that was taken for dead, when its job is evaluated elsewhere already."""
    monkeypatch.setattr(directory_module, "_LOST_SECONDS", 0.2)
    with DirectoryExecutor(SimulatedSpecification(), tmp_path / FOLDER) as executor:
        executor.submit(Job(7, recipe(2)))
        folder = JobFolder.current(tmp_path / FOLDER)
        assert folder is not None
        claimed = folder.claim("a-1")
        assert claimed is not None
        assert executor.next_result(SECONDS) == Lost(7, "worker a-1 gave no sign any more")
        executor.submit(Job(7, recipe(2)))
        write_object(folder.done / claimed.name.partition("@")[0], Result(7, None, error="late"))
        assert executor.next_result(0.2) is None
        again = folder.claim("a-2")
        assert again is not None
        assert read_object(again) == Job(7, recipe(2))
        write_object(folder.done / again.name.partition("@")[0], Result(7, None, error="in time"))
        assert executor.next_result(SECONDS) == Result(7, None, error="in time")


def test_one_claims_what_several_want(tmp_path: Path) -> None:
    folder = JobFolder.begun(tmp_path, None)
    for number in range(20):
        write_object(folder.open / f"{number:09d}", number)
    claimed = [folder.claim(f"w{index % 3}") for index in range(25)]
    assert [path.name.partition("@")[0] for path in claimed if path] == [f"{number:09d}" for number in range(20)]
    assert claimed[20:] == [None] * 5


def test_what_changes_is_alive(tmp_path: Path) -> None:
    pulse, path = Pulse(), tmp_path / "beat"
    assert pulse.seconds(path) == float("inf")
    path.write_text("1")
    assert pulse.seconds(path) == 0.0
    time.sleep(0.01)
    assert pulse.seconds(path) > 0.0
    path.write_text("2")
    assert pulse.seconds(path) == 0.0
    path.unlink()
    assert pulse.seconds(path) == float("inf")


def test_without_a_worker_it_is_said_how_to_start_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(directory_module, "_LONELY_SECONDS", 0.0)
    with DirectoryExecutor(SimulatedSpecification(), tmp_path / FOLDER) as executor:
        executor.submit(Job(0, recipe(2)))
        assert executor.next_result(0.3) is None
    assert caplog.text.count(f"no worker is there: start one or more by autoq worker {tmp_path}") == 1
    assert JobFolder.current(tmp_path / FOLDER) is None, "the driver has ended"


def test_a_study_without_a_worker_ends_in_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(study_module, "_LOOK_SECONDS", 0.1)
    problem = Problem(tmp_path)
    with DirectoryExecutor(SimulatedSpecification(), tmp_path / FOLDER) as executor:
        problem.driver("progressive").run(executor, 30, deadline=time.monotonic() + 0.2)
    assert problem.stored() == []
    assert "the time is up, and no worker is there: what was to be evaluated (1) is given up" in caplog.text


def test_a_worker_without_a_driver_ends(tmp_path: Path) -> None:
    assert work_in(tmp_path / FOLDER, 0.2) is None


def test_a_worker_goes_over_to_the_next_driver(tmp_path: Path) -> None:
    """The first one is killed; its folder stays, and nobody takes it for alive when another begins."""
    first = JobFolder.begun(tmp_path / FOLDER, SimulatedSpecification())
    with subprocess.Popen(worker_command(tmp_path, wait=1000.0)) as worker:
        with DirectoryExecutor(SimulatedSpecification(), tmp_path / FOLDER) as executor:
            assert not first.path.exists()
            executor.submit(Job(3, recipe(3)))
            outcome: Any = None
            while outcome is None:
                outcome = executor.next_result(SECONDS)
            assert outcome.number == 3
        assert worker.wait(SECONDS) == 0
    assert names(tmp_path / FOLDER) == ["current"]
