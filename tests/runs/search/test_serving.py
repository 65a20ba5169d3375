"""A search and a worker that share its directory, which each calls by a name of its own."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from autoq.optimization.storage import load_trials
from autoq.runs.search.directory import STUDY_NAME
from autoq.runs.search.run import run_search
from autoq.runs.search.serving import serve_search
from tests.runs.small_run import TRIALS, finished_run, small_settings


@pytest.mark.slow
def test_a_worker_elsewhere(tmp_path: Path) -> None:
    """One worker takes the course that the search takes by itself, and gives the same scores."""
    (tmp_path / "shared").mkdir()
    (tmp_path / "mounted").symlink_to(tmp_path / "shared")
    done: list[int] = []
    worker = threading.Thread(target=lambda: done.append(serve_search(tmp_path / "mounted" / "run", 120.0)))
    worker.start()
    run_search(small_settings(tmp_path, executor="directory"), tmp_path / "shared" / "run")
    worker.join(60.0)
    assert not worker.is_alive(), "it ends with the search"
    trials = load_trials(tmp_path / "shared" / "run" / "study.log", STUDY_NAME)
    usual = load_trials(finished_run() / "study.log", STUDY_NAME)
    assert [(trial.params, trial.values) for trial in trials] == [(trial.params, trial.values) for trial in usual]
    assert sum("worker" in trial.user_attrs for trial in trials) == TRIALS - 2, (
        "allocations are evaluated by the driver"
    )
    assert done[0] > TRIALS - 2, "and chunks of other phases"
