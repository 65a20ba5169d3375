"""What ``autoq status`` reads off a directory and off a database."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from optuna.distributions import CategoricalDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

from autoq.errors import RunDirectoryError, SpaceError
from autoq.optimization.database import StudyDatabase
from autoq.optimization.front import hypervolume
from autoq.runs.search.directory import SearchDirectory
from autoq.runs.search.status import read_status
from tests.runs.small_run import TRIALS, finished_run

START = datetime(2026, 1, 1)
OWNER: dict[str, Any] = {
    "run": "1",
    "directory": "host:/runs/a",
    "trials": 10,
    "proxy": "kl",
    "cost": "bops",
    "budgets": {"bops": 100},
    "uniform_8_8_cost": 400,
}


def trial(seconds: float, cost: float, loss: float | None, *, uniform: bool = False, worker: str = "") -> FrozenTrial:
    attributes = {"origin": "uniform" if uniform else "sampler", "recipe_hash": str(seconds)}
    made = create_trial(
        state=TrialState.FAIL if loss is None else TrialState.COMPLETE,
        values=None if loss is None else [cost, loss],
        params={"a.bits": 4},
        distributions={"a.bits": CategoricalDistribution((2, 4))},
        user_attrs=attributes | ({"worker": worker} if worker else {}),
        constraints={"bops": cost / 100 - 1},
    )
    made.datetime_complete = START + timedelta(seconds=seconds)
    return made


def test_status_of_a_database(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/studies.db"
    trials = [
        trial(0, 300, 0.5, uniform=True, worker="a:0"),
        trial(700, 90, 0.1, worker="a:1"),
        trial(710, 50, 0.2, worker="b:2"),
        trial(720, 60, None, worker="b:2"),
        trial(730, 200, 0.01),
    ]
    StudyDatabase(url, "deit", OWNER).follow(trials)
    found = read_status(url)
    assert found.name == f"deit in {url}"
    assert (found.done, found.wanted, found.by_state) == (5, 10, {"complete": 4, "pruned": 0, "failed": 1})
    assert found.per_minute == 6, "of the last minutes, not of the whole time"
    assert found.seconds_left == 50
    assert found.workers == {"a:1": 1, "b:2": 2}
    assert found.best is not None
    assert (found.best.cost, found.best.loss) == (90, 0.1), "what is over the budget does not count"
    assert found.front_size == 2
    assert found.hypervolume[-1] == (5, hypervolume([(90, 0.1), (50, 0.2)], (400, 0.5)) / 400)
    assert found.hypervolume[0] == (1, 0.0)


def test_status_of_a_directory(tmp_path: Path) -> None:
    found = read_status(finished_run())
    record = SearchDirectory(finished_run()).require()
    assert (found.state, found.done, found.wanted, found.seconds_left) == ("finished", TRIALS, TRIALS, None)
    assert found.budget == record.budgets["bops"]
    assert found.best is not None
    assert found.best.cost <= found.budget
    with pytest.raises(RunDirectoryError, match="is no run directory"):
        read_status(tmp_path)
    with pytest.raises(SpaceError, match="--study-name is of no use with a directory"):
        read_status(finished_run(), "deit")
    SearchDirectory(tmp_path).save(record)
    before = read_status(tmp_path)
    assert (before.done, before.best, before.hypervolume) == (0, None, [])
