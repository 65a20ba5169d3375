"""Trials a second of simulated workers, by executor."""

from __future__ import annotations

import itertools
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from optuna.trial import FrozenTrial

from autoq.optimization.executors._base import BaseExecutor
from autoq.optimization.executors.directory import DirectoryExecutor
from autoq.optimization.executors.local import LocalExecutor
from autoq.optimization.executors.processes import ProcessExecutor
from autoq.optimization.executors.ray import RayExecutor
from autoq.optimization.study import StudyDriver
from benchmarks.scaling.in_flight import InFlightExecutor
from benchmarks.scaling.made_up_losses import MadeUpLosses
from benchmarks.scaling.problem import Problem, write_line

IN_PROCESS = "in this process"
"""Evaluations that take no time, by the driver: what it does at most, whatever evaluates."""
_SERVE = """
import sys
from pathlib import Path
from autoq.optimization.executors.folder_worker import work_in
work_in(Path(sys.argv[1]), 60.0)
"""


def measure_speed(out: Path, executors: Sequence[str], counts: Sequence[int], seconds: float, trials_each: int) -> None:
    """Write trials a second by executor and number of workers."""
    losses = MadeUpLosses(0, seconds)
    problem = Problem.of(losses)
    for name, workers in itertools.product(executors, counts):
        if name == "local" and workers > 1:
            continue
        with tempfile.TemporaryDirectory() as folder, _Executor(name, workers, losses, Path(folder)) as executor:
            times, busy, first = _timed(problem.driver(0), executor, trials_each + 2 * workers)
        line = {
            "executor": name,
            "workers": workers,
            "seconds": seconds if name != IN_PROCESS else 0,
            "trials_a_second": (len(times) - 1 - first) / (times[-1] - times[first]),
            "driver_ms_a_trial": 1000 * busy / len(times),
        }
        write_line(out, line)


def _timed(driver: StudyDriver, executor: BaseExecutor, trials: int) -> tuple[list[float], float, int]:
    """Run a study; return when each trial was finished, the processor time of the driver, and which counts first.

    That is the one with which the last of the workers that have a name of their own has finished its first.
    """
    times: list[float] = []
    workers: list[str] = []

    def keep(trial: FrozenTrial) -> None:
        times.append(time.monotonic())
        workers.append(trial.user_attrs.get("worker", ""))

    busy = time.process_time()
    driver.run(executor, trials, on_trial=keep)
    return times, time.process_time() - busy, max(workers.index(each) for each in set(workers))


class _Executor:
    """An executor with its workers, in a ``with`` block."""

    def __init__(self, name: str, workers: int, losses: MadeUpLosses, folder: Path) -> None:
        self._name, self._workers, self._losses, self._folder = name, workers, losses, folder
        self._started: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> BaseExecutor:
        match self._name:
            case "local":
                self._executor: BaseExecutor = LocalExecutor(self._losses)
            case "processes":
                self._executor = ProcessExecutor(self._losses, self._workers)
                while not all(slot.is_ready for slot in self._executor._slots):
                    self._executor.next_result(1.0)
            case "ray":
                self._executor = RayExecutor(self._losses, self._workers)
                while self._executor.capacity < self._workers:
                    self._executor.next_result(1.0)
            case "directory":
                self._executor = DirectoryExecutor(self._losses, self._folder)
                command = [sys.executable, "-c", _SERVE, str(self._folder)]
                self._started = [subprocess.Popen(command) for _ in range(self._workers)]
                while self._executor.capacity < self._workers:
                    time.sleep(0.1)
            case _:  # what the driver does at most, whatever evaluates
                self._executor = InFlightExecutor(MadeUpLosses(0), self._workers, 0)
        return self._executor

    def __exit__(self, *error: object) -> None:
        self._executor.__exit__(None, None, None)
        for process in self._started:
            process.wait()
