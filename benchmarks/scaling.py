"""What several workers give: quality of a study by recipes in flight, trials a second by executor and workers.

python -m benchmarks.scaling flight [--results FILE]      # hypervolume with 1, 2, 8 and 32 in flight, three seeds
python -m benchmarks.scaling speed [--results FILE]       # trials a second of 1 to 256 simulated workers

Recipes are those of the bundled model; their losses are made up: sums of option losses with errors that the prior does
not know, to a power that joint errors have. Evaluations of simulated workers sleep. Processor time of the driver tells
what a trial costs it, whatever else the machine does.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import os
import platform
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from optuna.storages import InMemoryStorage
from optuna.trial import FrozenTrial, TrialState

from autoq.cost import CostModel, Limits, uniform_bops
from autoq.optimization.allocation.problem import AllocationProblem
from autoq.optimization.executors import EXECUTORS
from autoq.optimization.executors._base import AnyJob, BaseExecutor, ExecutorContext, Outcome, Worker
from autoq.optimization.executors.directory import DirectoryExecutor
from autoq.optimization.executors.local import LocalExecutor
from autoq.optimization.executors.processes import ProcessExecutor
from autoq.optimization.executors.ray import RayExecutor
from autoq.optimization.front import hypervolume
from autoq.optimization.objective import Evaluation, KeepGoing
from autoq.optimization.samplers import SAMPLERS, AllocationPrior
from autoq.optimization.space import load_space, resolve_space
from autoq.optimization.storage import TrialStore
from autoq.optimization.study import StudyDriver, StudySettings
from autoq.optimization.trials import UNIFORM, is_feasible
from autoq.recipe import SiteConfig
from autoq.runs.session import Session

MODEL = "vit_digits"
SPACE = "bits_only"
IN_FLIGHT = (1, 2, 8, 32)
EVALUATIONS = (50, 200)
SEEDS = (0, 1, 2)
IN_PROCESS = "in this process"
"""Evaluations that take no time, by the driver: what it does at most, whatever evaluates."""
_SERVE = """
import sys
from pathlib import Path
from autoq.optimization.executors.folder_worker import work_in
work_in(Path(sys.argv[1]), 60.0)
"""


@dataclass(frozen=True)
class MadeUpLosses:
    """The loss of a recipe without a model; what workers are built from, too.

    Attributes:
        seed: of the errors that the prior does not know.
        seconds: that an evaluation takes.
    """

    seed: int = 0
    seconds: float = 0.0

    def option(self, site: str, operand: str, bits: int) -> float:
        """Return what the prior knows of an option."""
        sensitivity = math.exp(random.Random(f"{site}:{operand}").gauss(0, 1.0))
        return sensitivity * 4.0**-bits

    def __call__(self, sites: Mapping[str, SiteConfig], keep_going: KeepGoing | None = None) -> Evaluation:
        """Return the loss of a recipe."""
        del keep_going
        time.sleep(self.seconds)
        total = 0.0
        for site, operands in sites.items():
            for operand, config in operands.items():
                error = random.Random(f"{self.seed}:{site}:{operand}:{config.bits}").gauss(0, 0.7)
                total += self.option(site, operand, config.bits) * math.exp(error)
        return Evaluation(total**1.2, None)

    def build(self, slot: int) -> Worker:
        """Build a worker."""
        return Worker(self, f"worker-{slot}")


class InFlightExecutor(BaseExecutor):
    """Has several jobs in flight, which come back in a random order that a seed decides."""

    def __init__(self, objective: MadeUpLosses, in_flight: int, seed: int) -> None:
        """Take ``in_flight`` jobs at once."""
        self._worker, self._in_flight = Worker(objective), in_flight
        self._rng = random.Random(seed)
        self._jobs: list[AnyJob] = []

    @classmethod
    def of(cls, context: ExecutorContext) -> Self:
        """Not made by name."""
        raise NotImplementedError

    @property
    def capacity(self) -> int:
        """As many as were asked for."""
        return self._in_flight

    def submit(self, job: AnyJob) -> None:
        """Keep a job."""
        self._jobs.append(job)

    def next_result(self, timeout: float | None = None) -> Outcome | None:
        """Evaluate one of the jobs."""
        del timeout
        return self._worker.do(self._jobs.pop(self._rng.randrange(len(self._jobs))))

    def close(self) -> None:
        """Forget the rest."""
        self._jobs.clear()


@dataclass(frozen=True)
class Problem:
    """The decisions of a model, with exact costs and a prior."""

    costs: CostModel
    limits: Limits
    prior: AllocationPrior
    reference: float

    @classmethod
    def of(cls, losses: MadeUpLosses, model: str = MODEL, space_name: str = SPACE) -> Self:
        """Trace the model."""
        session = Session.open(model, device="cpu")
        sites = session.traced.sites
        space = resolve_space(load_space(space_name), sites)
        problem = AllocationProblem(session.costs, space)
        limit = uniform_bops(sites, 4, 4)
        table = problem.table(lambda site, operand, config: losses.option(site, operand, config.bits))
        prior = AllocationPrior(problem, table, limit)
        return cls(session.costs, Limits({"bops": limit}), prior, uniform_bops(sites, 8, 8))

    def driver(self, seed: int, sampler: str = "progressive") -> StudyDriver:
        """Begin a study in memory."""
        store = TrialStore(InMemoryStorage(), "scaling", ("minimize", "minimize"))
        return StudyDriver(self.prior, self.costs, self.limits, store, StudySettings(SAMPLERS[sampler], seed))


def measure_flight(out: Path) -> None:
    """Write the hypervolume after several numbers of evaluations, for each number in flight and seed."""
    for seed in SEEDS:
        losses = MadeUpLosses(seed)
        problem = Problem.of(losses)
        for in_flight in IN_FLIGHT:
            trials: list[FrozenTrial] = []
            started = time.process_time()
            with InFlightExecutor(losses, in_flight, seed) as executor:
                problem.driver(seed).run(executor, max(EVALUATIONS), on_trial=trials.append)
            seconds = time.process_time() - started
            worst = max(trial.values[1] for trial in trials if trial.user_attrs["origin"] == UNIFORM)
            volumes = {}
            for count in EVALUATIONS:
                points = [
                    (t.values[0], t.values[1])
                    for t in trials[:count]
                    if t.state == TrialState.COMPLETE and is_feasible(t)
                ]
                volumes[count] = hypervolume(points, (problem.reference, worst)) / problem.reference
            repeated = len(trials) - len({trial.user_attrs["recipe_hash"] for trial in trials})
            line = {
                "decisions": len(problem.prior.problem.space.decisions),
                "in_flight": in_flight,
                "seed": seed,
                "hypervolume": volumes,
                "repeated": repeated,
                "driver_ms_a_trial": 1000 * seconds / len(trials),
            }
            write_line(out, line)


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


def write_line(out: Path, line: dict[str, Any]) -> None:
    """Append a figure to a file and print it, with what tells how busy the machine was."""
    line |= {"cores": os.cpu_count(), "load": round(os.getloadavg()[0], 1), "machine": platform.machine()}
    print(json.dumps(line), flush=True)
    with out.open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")


def main() -> None:
    """Measure what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["flight", "speed"])
    parser.add_argument("--results", type=Path, default=Path("docs/scaling.jsonl"), metavar="FILE")
    parser.add_argument("--seconds", type=float, default=1.0, help="that a simulated evaluation takes")
    parser.add_argument("--executors", default=",".join((*EXECUTORS, IN_PROCESS)), metavar="NAMES")
    parser.add_argument("--workers", default="1,2,8,32,128,256", metavar="NUMBERS", help="of workers, of each executor")
    parser.add_argument("--trials", type=int, default=60, help="of each case, and two for each worker")
    arguments = parser.parse_args()
    np.seterr(all="raise", under="ignore")
    if arguments.what == "flight":
        measure_flight(arguments.results)
    else:
        counts = [int(count) for count in arguments.workers.split(",")]
        measure_speed(arguments.results, arguments.executors.split(","), counts, arguments.seconds, arguments.trials)


if __name__ == "__main__":
    from benchmarks.scaling import main as imported  # by a name that workers know

    imported()
