"""A study under ``kill -9``: workers, the driver, its database and its disk fail at random moments; nothing is lost."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import textwrap
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from optuna.trial import TrialState

from autoq.optimization.database import read_study
from autoq.optimization.front import non_dominated
from autoq.optimization.storage import load_trials
from autoq.optimization.trials import UNIFORM, is_feasible
from autoq.recipe import hash_sites
from tests.optimization.executors.simulated import made_up_loss
from tests.optimization.postgres import PostgresServer
from tests.optimization.test_study import Problem

ROOT = Path(__file__).parents[2]
KILLS = int(os.environ.get("AUTOQ_FAULT_KILLS", "24"))
TRIALS = 10 * KILLS
"""More than are stored between so many kills."""
SECONDS = 1500.0
DRIVER = """
    if __name__ == "__main__":  # workers import this file too, and start faster without all that
        import sys
        from pathlib import Path
        import autoq.optimization.database as database
        from autoq.cost import CostModel, Limits
        from autoq.optimization.executors.processes import ProcessExecutor
        from autoq.optimization.samplers import SAMPLERS
        from autoq.optimization.storage import TrialStore
        from autoq.optimization.study import StudyDriver, StudySettings
        from autoq.runs.lock import hold_directory
        from tests.optimization.executors.simulated import SimulatedSpecification
        from tests.optimization.test_study import Problem
        folder, url, trials = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
        database._AGAIN_SECONDS = 0.5
        problem = Problem(folder)
        with hold_directory(folder):
            copy = database.StudyDatabase(url, "faults", {"run": "1", "directory": "here"})
            store = TrialStore.open(problem.path, "autoq", copy=copy)
            limits = Limits({"bops": problem.budget})
            settings = StudySettings(SAMPLERS["progressive"])
            driver = StudyDriver(problem.prior, CostModel(problem.sites), limits, store, settings)
            with ProcessExecutor(SimulatedSpecification(seconds=0.3), 3) as executor:
                driver.run(executor, trials, on_trial=lambda trial: print(trial.number, flush=True))
            copy.close(store.load_trials())
"""


class Driver:
    """A driver in a process of its own, and the trials that it has said to have stored."""

    def __init__(self, folder: Path, url: str, told: set[int]) -> None:
        script = folder / "driver.py"
        script.write_text(textwrap.dedent(DRIVER), encoding="utf-8")
        command = [sys.executable, str(script), str(folder), url, str(TRIALS)]
        found_here = {**os.environ, "PYTHONPATH": str(ROOT)}
        self.process = psutil.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=found_here)
        self.has_stored = False
        self._listener = threading.Thread(target=self._listen, args=(told,))
        self._listener.start()
        self.complaints = ""
        self._reader = threading.Thread(target=self._complain)
        self._reader.start()

    def _listen(self, told: set[int]) -> None:
        for line in self.process.stdout:
            if line.endswith("\n"):
                told.add(int(line))
                self.has_stored = True

    def _complain(self) -> None:
        self.complaints = self.process.stderr.read()

    def workers(self) -> list[psutil.Process]:
        try:
            servers = [child for child in self.process.children() if "forkserver" in " ".join(child.cmdline())]
            return [worker for server in servers for worker in server.children()]
        except psutil.NoSuchProcess:
            return []

    def wait(self) -> int:
        status = self.process.wait(SECONDS)
        for thread, stream in ((self._listener, self.process.stdout), (self._reader, self.process.stderr)):
            thread.join()
            stream.close()
        return int(status)


@pytest.fixture
def drivers() -> Iterator[list[Driver]]:
    """All that a test has started; none of them outlives it."""
    started: list[Driver] = []
    yield started
    for driver in started:
        if driver.process.poll() is None:
            driver.process.kill()
        driver.wait()


@pytest.mark.slow
@pytest.mark.postgres
def test_nothing_is_lost_and_nothing_counted_twice(
    tmp_path: Path, postgres: PostgresServer, drivers: list[Driver]
) -> None:
    rng, url, told = random.Random(0), postgres.url(), set[int]()
    problem = Problem(tmp_path)
    kills: Counter[str] = Counter()
    ends: list[str] = []

    def start() -> Driver:
        drivers.append(Driver(tmp_path, url, told))
        return drivers[-1]

    driver = start()
    deadline, patience = time.monotonic() + SECONDS, 0
    while kills.total() < KILLS:
        assert time.monotonic() < deadline
        time.sleep(rng.uniform(0.0, 0.3))
        if len(told) < patience and driver.process.poll() is None:
            continue
        # Several at once, or after a few more trials: the study gets on, however slow the machine is.
        patience = len(told) + rng.choice([0, 0, 1, 1, 2])
        if driver.process.poll() is not None:  # of a full disk, or as no worker was left to live until it was ready
            assert driver.wait() != 0, f"the study was over after {dict(kills)}"
            ends.append(driver.complaints)
            driver = start()
            continue
        if kills.total() == KILLS // 3 and not kills["server"]:
            postgres.stop()
            time.sleep(rng.uniform(0.5, 2.0))
            postgres.start()
            kills["server"] += 1
        elif kills.total() >= 2 * KILLS // 3 and not kills["disk"] and problem.path.exists():
            driver.process.rlimit(psutil.RLIMIT_FSIZE, (problem.path.stat().st_size + 100, psutil.RLIM_INFINITY))
            kills["disk"] += 1
            assert driver.wait() != 0, "it ends of that, before anything else kills it"
            ends.append(driver.complaints)
            driver = start()
        elif rng.random() < 0.07 and (driver.has_stored or rng.random() < 0.1):
            driver.process.kill()
            driver.wait()
            kills["driver"] += 1
            driver = start()
        elif workers := driver.workers():
            rng.choice(workers).kill()
            kills["worker"] += 1
    while driver.wait() != 0:
        ends.append(driver.complaints)
        assert len(ends) < KILLS
        driver = start()

    trials = load_trials(problem.path, "autoq")
    (tmp_path / "kills.json").write_text(json.dumps(kills), encoding="utf-8")  # to be read where one wants the figures
    assert kills["worker"] > KILLS // 2
    assert kills["driver"] >= 1
    assert any("File too large" in end for end in ends), "the full disk"
    assert [trial.number for trial in trials] == list(range(TRIALS))
    assert told <= set(range(TRIALS)), "what was said to be stored is stored"
    assert len({trial.user_attrs["recipe_hash"] for trial in trials}) == TRIALS, "none is counted twice"
    for trial in trials:
        sites = problem.space.sites_for(trial.params)
        assert hash_sites(sites) == trial.user_attrs["recipe_hash"]
        assert trial.user_attrs["origin"] == UNIFORM or is_feasible(trial), "the budget is kept"
        assert trial.state != TrialState.COMPLETE or trial.values[1] == made_up_loss(sites)
    copied = read_study(url, "faults")[2]
    assert sorted((t.user_attrs["recipe_hash"], t.state.name) for t in copied) == sorted(
        (t.user_attrs["recipe_hash"], t.state.name) for t in trials
    )
    fronts = []
    for those in (trials, copied):
        points = [tuple(t.values) for t in those if t.state == TrialState.COMPLETE and is_feasible(t)]
        fronts.append([points[index] for index in non_dominated(points)])
    assert fronts[0] == fronts[1]
