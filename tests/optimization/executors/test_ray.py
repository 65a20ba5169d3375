"""Actors of a Ray cluster with two nodes on this machine; one of them is killed."""

from __future__ import annotations

import socket
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from optuna.trial import TrialState

import autoq.optimization.executors.ray as ray_module
from autoq.errors import InputError, RunError
from autoq.optimization.executors._base import Job, Lost
from autoq.optimization.executors.ray import RayExecutor, connect
from autoq.recipe import hash_sites
from tests.contracts.executors import SECONDS, ExecutorContract, recipe
from tests.optimization.executors.simulated import SimulatedSpecification, made_up_loss
from tests.optimization.test_study import Problem

pytestmark = [
    pytest.mark.slow,
    # Ray leaves sockets and files of its own processes to the garbage collector.
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning:ray"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:ray"),
]


def test_an_address_where_nothing_listens() -> None:
    pytest.importorskip("ray")
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
    with pytest.raises(InputError, match=f"there is no Ray cluster at '{address}' that can be used .*--address"):
        connect(address, 1)


def test_without_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(InputError, match=r"executor 'ray' needs a package: pip install 'autoq\[ray\]'"):
        connect(None, 1)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A head without CPUs, to which the driver is connected; tests add nodes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_AUTH_MODE", "disabled")  # else a token is written to the home directory
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        pytest.importorskip("ray")
        from ray.cluster_utils import Cluster

        made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
        ray = connect(made.address, 1)
        made.add_node(num_cpus=3)
        yield made
        ray.shutdown()
        made.shutdown()


@pytest.mark.usefixtures("cluster")
class TestRay(ExecutorContract):
    name = "ray"


@pytest.mark.usefixtures("cluster")
def test_a_killed_actor_is_replaced_and_only_its_own_job_is_lost() -> None:
    killing = SimulatedSpecification({hash_sites(recipe(8)): "kill"})
    with RayExecutor(killing, 2) as executor:
        for bits in (8, 2, 3):
            executor.submit(Job(bits, recipe(bits)))
        found = {outcome.number: outcome for outcome in TestRay().back(executor, 3)}
        lost = found.pop(8)
        assert isinstance(lost, Lost)
        assert lost.reason.startswith("worker ")
        assert found.keys() == {2, 3}
        executor.submit(Job(9, recipe(4)))
        [again] = TestRay().back(executor, 1)
        assert again.number == 9


@pytest.mark.usefixtures("cluster")
def test_workers_that_end_before_they_are_ready_are_not_started_for_ever() -> None:
    with (
        RayExecutor(SimulatedSpecification(crashes=True), 1) as executor,
        pytest.raises(RunError, match="end before they are ready"),
    ):
        TestRay().back(executor, 1)


def test_a_node_is_killed(cluster: Any, tmp_path: Path) -> None:
    """Its jobs are evaluated on the other: nothing is lost, nothing counted twice."""
    other = cluster.add_node(num_cpus=2)
    problem, trials = Problem(tmp_path), 40
    stored: list[int] = []
    with RayExecutor(SimulatedSpecification(seconds=0.3), 5) as executor:
        deadline = time.monotonic() + SECONDS
        while executor.capacity < 6:  # all five: both nodes work
            executor.next_result(1.0)
            assert time.monotonic() < deadline

        def kill(trial: Any) -> None:
            stored.append(trial.number)
            if len(stored) == 12:
                threading.Thread(target=cluster.remove_node, args=(other, False)).start()

        problem.driver("progressive").run(executor, trials, on_trial=kill)
        assert sum(slot.is_ready for slot in executor._slots) <= 3, "the other node is gone"
    found = problem.stored()
    assert stored == [trial.number for trial in found] == list(range(trials))
    assert len({trial.user_attrs["recipe_hash"] for trial in found}) == trials
    for trial in found:
        assert trial.state == TrialState.COMPLETE
        assert trial.values[1] == made_up_loss(problem.space.sites_for(trial.params))
    assert {trial.user_attrs["worker"] for trial in found} == {f"host:{slot}" for slot in range(5)}


@pytest.mark.usefixtures("cluster")
def test_a_cluster_without_room_is_told_of(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(ray_module, "_LONELY_SECONDS", 0.5)
    with RayExecutor(SimulatedSpecification(), 1, uses_gpus=True) as executor:
        executor.submit(Job(0, recipe(2)))
        assert executor.next_result(2.0) is None
        assert not executor.has_workers
    assert "no worker on the Ray cluster is ready yet" in caplog.text
    assert "0 GPUs" in caplog.text
