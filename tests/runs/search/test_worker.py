"""Workers of a search: rebuilt from its directory, refused where something differs, and what they score."""

from __future__ import annotations

import dataclasses
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import autoq
from autoq.errors import RunError, SpaceError, WorkerRefusedError
from autoq.events import Event, PhaseAdvanced, PhaseStarted
from autoq.optimization.executors._base import Job, Result
from autoq.optimization.space import load_space, resolve_space
from autoq.optimization.storage import load_trials
from autoq.runs.opening import GivenObjects, open_bank
from autoq.runs.search.directory import STUDY_NAME, SearchDirectory
from autoq.runs.search.run import run_search
from autoq.runs.search.settings import make_settings
from autoq.runs.search.worker import SearchWorkerSpecification, modules_of_workers
from tests.api.models import IMAGES, make
from tests.runs.small_run import TRIALS, finished_run, small_session, small_settings, trace_once

ROOT = Path(__file__).parents[3]


@pytest.fixture
def specification(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> SearchWorkerSpecification:
    """Of a copy of the finished run, made as its driver makes it."""
    trace_once(monkeypatch)
    directory = SearchDirectory(shutil.copytree(finished_run(), tmp_path / "run"))
    settings = directory.require().settings
    session = GivenObjects().open_session(settings)
    images = session.calibration_images(settings.data, settings.calib_images, settings.seed, 32)
    both = images.held_out(settings.calib_images)
    _, bank = open_bank(session, both[0], settings, directory.bank)
    return SearchWorkerSpecification.of(settings, directory.path, session, both, bank, 1)


def test_a_worker_scores_as_the_driver_did(specification: SearchWorkerSpecification) -> None:
    worker = specification.build(0)
    space = resolve_space(load_space(specification.settings.space), small_session().traced.sites)
    for trial in load_trials(finished_run() / "study.log", STUDY_NAME)[::5]:
        done = worker.do(Job(trial.number, space.sites_for(trial.params)))
        assert isinstance(done, Result)
        assert done.evaluation is not None
        assert done.evaluation.loss == trial.values[1], "bit for bit"
        assert done.hardware.endswith(torch.backends.cpu.get_cpu_capability())


@pytest.mark.parametrize(
    "name", ["torch", "source_sha256", "weights_sha256", "trace_sha256", "scoring_sha256", "bank_fingerprint"]
)
def test_a_worker_that_differs_is_refused(specification: SearchWorkerSpecification, name: str) -> None:
    other = dataclasses.replace(specification, fingerprints={**specification.fingerprints, name: "other"})
    with pytest.raises(WorkerRefusedError, match=rf"does not have what the driver has: {name} \(was 'other', is '"):
        other.build(0)


def test_a_worker_does_not_trace(specification: SearchWorkerSpecification, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object) -> None:
        raise AssertionError("the driver has done this")

    monkeypatch.setattr("autoq.runs.session.trace", refused)
    monkeypatch.setattr("autoq.runs.opening.check_reference", refused)
    assert specification.build(0).state.session.traced.sites == small_session().traced.sites


@pytest.mark.parametrize("damage", ["half", "another"])
def test_a_trace_that_is_not_the_drivers_is_refused(specification: SearchWorkerSpecification, damage: str) -> None:
    """Before it is unpickled: what lies in the directory could be anybody's."""
    trace = SearchDirectory(specification.folder).trace
    content = trace.read_bytes()
    trace.write_bytes(content[: len(content) // 2] if damage == "half" else content + b".")
    with pytest.raises(WorkerRefusedError, match="trace_sha256"):
        specification.build(0)
    trace.unlink()
    with pytest.raises(FileNotFoundError):  # which ends a worker that comes too late, see ``folder_worker``
        specification.build(0)


def test_a_search_by_two_processes(tmp_path: Path) -> None:
    """It ends as it does in one, and what both have evaluated has the same score, bit for bit."""
    result = run_search(small_settings(tmp_path, workers=2), tmp_path / "run")
    trials = load_trials(tmp_path / "run" / "study.log", STUDY_NAME)
    assert len(trials) == TRIALS
    assert len({trial.user_attrs["recipe_hash"] for trial in trials}) == TRIALS
    assert len({trial.user_attrs.get("worker") for trial in trials}) >= 2, "the first is evaluated by the driver"
    alone = {t.user_attrs["recipe_hash"]: t for t in load_trials(finished_run() / "study.log", STUDY_NAME)}
    both = [trial for trial in trials if trial.user_attrs["recipe_hash"] in alone]
    assert len(both) >= 4, "the uniform points and the first allocation at least"
    for trial in both:
        assert trial.values == alone[trial.user_attrs["recipe_hash"]].values
    assert result.front
    assert not SearchDirectory(tmp_path / "run").trace.exists(), "nobody needs it any more"
    again = run_search(small_settings(tmp_path), tmp_path / "run")
    assert again.front == result.front, "workers are no part of what a run is"


@pytest.mark.parametrize(("workers", "threads"), [(1, 4), (2, 2), (8, 1)])
def test_the_driver_leaves_workers_their_share_of_the_cores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: int, threads: int
) -> None:
    """From the start: they import meanwhile, and threads that wait for each other would keep them from it."""
    found: list[int] = []

    def opened(*_: object, **__: object) -> None:
        found.append(torch.get_num_threads())
        raise RunError("enough")

    monkeypatch.setattr("autoq.runs.search.run.open_run", opened)
    monkeypatch.setattr("autoq.optimization.executors.processes.import_ahead", lambda _: None)
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    try:
        with pytest.raises(RunError, match="enough"):
            run_search(small_settings(tmp_path, workers=workers), tmp_path / "run")
        assert (found, torch.get_num_threads()) == ([threads], 4)
    finally:
        torch.set_num_threads(before)


def contents(folder: Path) -> dict[str, bytes]:
    """What was solved or learned, by path."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*.safetensors")}


@pytest.mark.slow
def test_methods_and_chosen_recipes_are_shared_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is what the driver makes of it alone, in the same place."""
    trace_once(monkeypatch)
    monkeypatch.setattr("autoq.runs.search.improve_front.FINISHING_IMAGES", 16)
    changes = {"baselines": "published", "finish": True, "reconstruct": True, "reconstruct_iterations": 2}
    wanted = small_settings(tmp_path, **changes, reconstruct_images=16)
    events: list[Event] = []
    shared = run_search(wanted.model_copy(update={"workers": 2}), tmp_path / "run", events.append)
    told = [(event.phase, event.total) for event in events if isinstance(event, PhaseStarted)]
    assert told[-2:] == [("improving", 2), ("improving", 2)]
    assert told.count(("baselines", 4)) == 1
    counted = [event.done for event in events if isinstance(event, PhaseAdvanced) and event.phase == "improving"]
    assert counted == [1, 2, 1, 2]
    record = SearchDirectory(tmp_path / "run").require()
    emptied = record.model_copy(update={"baselines": {}, "finished": {}, "reconstructed": {}})
    for name in ("baselines", "finished", "reconstructed"):
        shutil.move(tmp_path / "run" / name, tmp_path / f"shared-{name}")
    SearchDirectory(tmp_path / "run").save(emptied)
    alone = run_search(wanted, tmp_path / "run")
    again = SearchDirectory(tmp_path / "run").require()
    assert list(record.baselines) == list(again.baselines)
    assert list(again.baselines) == [f"{name}-w4a4" for name in ("rtn", "fq-vit", "repq-vit", "igq-vit")]
    for kind in ("baselines", "finished", "reconstructed"):
        assert getattr(record, kind) == getattr(again, kind), kind
        assert (files := contents(tmp_path / "run" / kind)) == contents(tmp_path / f"shared-{kind}"), kind
        assert len(files) == len(getattr(record, kind))
    assert (shared.finished, shared.reconstructed) == (alone.finished, alone.reconstructed)
    assert len(shared.finished) == 2


def test_objects_cannot_be_rebuilt_elsewhere() -> None:
    with pytest.raises(SpaceError, match="executor 'processes' rebuilds model and images by their names"):
        autoq.search(make(), IMAGES, workers=2)


def test_what_is_imported_ahead_starts_no_thread_and_leaves_gpus_alone() -> None:
    """Workers are forked after it."""
    code = f"""
import importlib, threading, torch
def refused(*_): raise AssertionError("a GPU is asked for")
for name in ("_cuda_getDeviceCount", "_cuda_init"):
    setattr(torch._C, name, refused)
for name in {modules_of_workers(make_settings({"model": "deit_tiny_patch16_224"}))!r}:
    importlib.import_module(name)
assert threading.active_count() == 1, threading.enumerate()
assert not torch.cuda.is_initialized()
"""
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, "PYTHONPATH": str(ROOT)})
