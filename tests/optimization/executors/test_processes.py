"""Worker processes: killed, hung, orphaned and interrupted."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import psutil
import pytest

from autoq.errors import RunError
from autoq.optimization.executors._base import Job, Lost, Outcome, Result
from autoq.optimization.executors.processes import ProcessExecutor
from autoq.recipe import hash_sites
from tests.contracts.executors import SECONDS, ExecutorContract, recipe
from tests.optimization.executors.simulated import SimulatedSpecification

ROOT = Path(__file__).parents[3]
DRIVER = """
    import time
    from autoq.optimization.executors._base import Job
    from autoq.optimization.executors.processes import ProcessExecutor
    from tests.contracts.executors import recipe
    from tests.optimization.executors.simulated import SimulatedSpecification
    if __name__ == "__main__":
        with ProcessExecutor(SimulatedSpecification(seconds=1000), 1) as executor:
            executor.submit(Job(0, recipe(2)))
            executor.next_result(0.1)
            try:
                print(*executor.process_ids, flush=True)
                while True:
                    executor.next_result()
            except KeyboardInterrupt:
                print("interrupted", flush=True)
"""


def next_outcome(executor: ProcessExecutor) -> Outcome:
    """What next becomes of a job, whoever gets ready or ends before that."""
    deadline = time.monotonic() + SECONDS
    while (outcome := executor.next_result(SECONDS)) is None:
        assert time.monotonic() < deadline
    return outcome


class TestProcesses(ExecutorContract):
    name = "processes"


def test_a_killed_worker_is_replaced_and_only_its_own_job_is_lost() -> None:
    hanging = SimulatedSpecification({hash_sites(recipe(8)): "hang"})
    with ProcessExecutor(hanging, 2) as executor:
        assert executor.capacity == 3
        for bits in (8, 2, 3, 4):
            executor.submit(Job(bits, recipe(bits)))
        done = [next_outcome(executor) for _ in range(3)]
        assert sorted(result.number for result in done if isinstance(result, Result)) == [2, 3, 4]
        busy = {result.worker for result in done if isinstance(result, Result)}
        assert len(busy) == 1, "the other one hangs"
        before = executor.process_ids
        killed = before[0] if busy == {"host:1"} else before[1]
        os.kill(killed, signal.SIGKILL)
        lost = next_outcome(executor)
        assert lost == Lost(8, f"worker process {killed} was killed by signal 9")
        assert len(set(executor.process_ids) - set(before)) == 1
        assert executor.next_result(SECONDS) is None, "the other worker is ready"
        assert executor.next_result(0.0) is None, "nothing comes back twice"


def test_workers_that_end_before_they_are_ready_are_not_started_for_ever() -> None:
    with (
        ProcessExecutor(SimulatedSpecification(crashes=True), 1) as executor,
        pytest.raises(RunError, match="was killed by signal 9 before it was ready"),
    ):
        next_outcome(executor)


def test_it_is_told_when_a_worker_is_ready() -> None:
    with ProcessExecutor(SimulatedSpecification(build_seconds=0.2), 1) as executor:
        assert executor.next_result(0.0) is None
        assert not executor.is_ready
        assert executor.next_result(SECONDS) is None
        assert executor.is_ready, "not waited for a result that nobody is asked for"


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_workers_end_with_their_driver(number: signal.Signals, tmp_path: Path) -> None:
    """In the middle of an evaluation, whatever ends the driver; an interrupt of the group reaches the driver alone."""
    script = tmp_path / "driver.py"
    script.write_text(textwrap.dedent(DRIVER), encoding="utf-8")
    command = [sys.executable, str(script)]
    found_here = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True, env=found_here) as driver:
        assert driver.stdout is not None
        worker = psutil.Process(int(driver.stdout.readline()))
        if number == signal.SIGKILL:
            driver.kill()
        else:
            os.killpg(driver.pid, number)
            assert driver.stdout.readline() == "interrupted\n"
            assert driver.wait(SECONDS) == 0
        worker.wait(SECONDS)  # raises if it goes on


IMPORTING = """
    import sys
    from autoq.optimization.executors._base import Job
    from autoq.optimization.executors.processes import ProcessExecutor, import_ahead
    from tests.contracts.executors import SECONDS, recipe
    from tests.optimization.executors.simulated import ImportSpecification
    if __name__ == "__main__":
        import_ahead(["no_such_module", "colorsys"])
        with ProcessExecutor(ImportSpecification(("colorsys", "this")), 2) as executor:
            executor.submit(Job(0, recipe(2)))
            while (found := executor.next_result(SECONDS)) is None:
                pass
            print(found.hardware)
"""


def test_workers_have_what_was_imported_ahead(tmp_path: Path) -> None:
    script = tmp_path / "driver.py"
    script.write_text(textwrap.dedent(IMPORTING), encoding="utf-8")
    found_here = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, check=True, env=found_here, timeout=SECONDS
    )
    assert done.stdout == "colorsys\n", "and nothing else"
    assert not done.stderr, "a module that is not there is the worker's to complain of"
