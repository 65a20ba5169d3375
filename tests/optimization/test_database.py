"""Studies copied to a database: what is refused, and that nothing is lost or counted twice while it is away."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.distributions import CategoricalDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

import autoq.optimization.database as database_module
from autoq.errors import StorageError
from autoq.optimization.database import StudyDatabase, read_study, shown_url, without_password
from autoq.optimization.storage import TrialStore, load_trials, open_journal
from tests.optimization.postgres import PASSWORD, PostgresServer

OWNER: dict[str, Any] = {"run": "1", "directory": "host:/runs/a", "trials": 10, "weights_sha256": 64 * "a"}


def trial(number: int, *, scored: bool = True) -> FrozenTrial:
    attributes: dict[str, Any] = {"recipe_hash": str(number), "label": ""}
    return create_trial(
        values=[float(number), 0.5],
        params={"a.bits": 4},
        distributions={"a.bits": CategoricalDistribution((2, 4))},
        user_attrs=attributes | ({"score": {"kl_nats": 0.5}} if scored else {}),
        constraints={"bops": -0.5},
    )


def hashes(url: str, name: str = "run") -> list[str]:
    return [each.user_attrs["recipe_hash"] for each in read_study(url, name)[2]]


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/studies.db"


def test_every_trial_is_in_both(tmp_path: Path, url: str) -> None:
    objectives = ("bops", "kl_nats")
    copy = StudyDatabase(url, "run", OWNER, objectives)
    store = TrialStore.open(tmp_path / "study.log", "autoq", copy=copy, objectives=objectives)
    assert [store.append(trial(0)), store.append(trial(1, scored=False)), store.append(trial(1))] == [0, 1, 2]
    name, owner, trials = read_study(url)
    assert (name, owner) == ("run", OWNER)
    database = optuna.storages.RDBStorage(url)
    for storage in (database, open_journal(tmp_path / "study.log")):
        assert optuna.load_study(study_name=None, storage=storage).metric_names == list(objectives)
    database.engine.dispose()
    ours = load_trials(tmp_path / "study.log", "autoq")
    for copied, own in zip(trials, ours, strict=True):
        assert (copied.number, copied.params, copied.values) == (own.number, own.params, own.values)
        assert (copied.user_attrs, copied.constraints) == (own.user_attrs, own.constraints)
        assert copied.state == TrialState.COMPLETE


def test_trials_from_before_are_added_once(tmp_path: Path, url: str) -> None:
    store = TrialStore.open(tmp_path / "study.log", "autoq")
    for number in range(3):
        store.append(trial(number))
    for _ in range(2):
        TrialStore.open(tmp_path / "study.log", "autoq", copy=StudyDatabase(url, "run", OWNER))
        assert hashes(url) == ["0", "1", "2"]


@pytest.mark.postgres
def test_a_server_that_is_away_is_caught_up_with(
    tmp_path: Path, postgres: PostgresServer, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database_module, "_AGAIN_SECONDS", 0.0)
    copy = StudyDatabase(postgres.url(), "away", OWNER)
    store = TrialStore.open(tmp_path / "study.log", "autoq", copy=copy)
    store.append(trial(0))
    postgres.stop()
    try:
        with caplog.at_level(logging.WARNING):
            assert store.append(trial(1)) == 1
    finally:
        postgres.start()
    assert "is away, and is caught up with later" in caplog.text
    assert PASSWORD not in caplog.text
    store.append(trial(2))
    copy.close(store.load_trials())
    assert hashes(postgres.url(), "away") == ["0", "1", "2"]
    assert [each.values for each in read_study(postgres.url(), "away")[2]] == [[0, 0.5], [1, 0.5], [2, 0.5]]


@pytest.mark.postgres
def test_a_wrong_password(postgres: PostgresServer) -> None:
    with pytest.raises(StorageError, match="password authentication failed") as caught:
        StudyDatabase(postgres.url("wrong"), "run", OWNER)
    assert "wrong" not in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        (
            "postgresql://me:secret@127.0.0.1:1/studies",
            "port 1 failed: Connection refused; check host, name and password",
        ),
        ("sqlite:////nowhere/studies.db", "database"),
        ("nope://me:secret@host/studies", "Can't load plugin"),
        ("studies", "cannot read storage URL 'studies': write it as postgresql://USER@HOST/DATABASE"),
    ],
)
def test_what_cannot_be_opened_is_said_in_a_line(url: str, expected: str) -> None:
    for use in (lambda: StudyDatabase(url, "run", OWNER), lambda: read_study(url)):
        with pytest.raises(StorageError) as caught:
            use()
        assert expected in str(caught.value)
        assert "\n" not in str(caught.value)
        assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (
            {"run": "2", "weights_sha256": 64 * "b"},
            "is written by the search in host:/runs/a, which differs in weights_sha256 (was 'aaaaaaaaaaaa', is "
            "'bbbbbbbbbbbb'); choose another --study-name",
        ),
        ({"run": "2"}, "is written by the search in host:/runs/a: go on there, or choose another --study-name"),
    ],
)
def test_another_searchs_study_is_refused(url: str, changes: dict[str, str], expected: str) -> None:
    StudyDatabase(url, "run", OWNER)
    with pytest.raises(StorageError) as caught:
        StudyDatabase(url, "run", OWNER | changes)
    assert expected in str(caught.value)
    StudyDatabase(url, "another", OWNER | changes)
    StudyDatabase(url, "run", OWNER | {"trials": 20, "directory": "host:/moved"})
    assert read_study(url, "run")[1]["trials"] == 20
    with pytest.raises(StorageError, match=r"several studies, or none: give --study-name; there are another, run"):
        read_study(url)


def test_a_study_of_somebody_else_is_refused(url: str) -> None:
    study = optuna.create_study(storage=url, study_name="run", directions=["minimize"] * 2)
    study.add_trial(trial(0))
    with pytest.raises(StorageError, match="is none of autoq's"):
        StudyDatabase(url, "run", OWNER)
    with pytest.raises(StorageError, match="there are none"):
        read_study(url)


def test_passwords_are_not_written_down() -> None:
    url = "postgresql+psycopg://me:secret@host:5433/studies?sslmode=require"
    assert without_password(url) == "postgresql+psycopg://me@host:5433/studies?sslmode=require"
    assert shown_url(url) == "postgresql+psycopg://me:***@host:5433/studies?sslmode=require"
