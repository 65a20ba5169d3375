"""The life of a run's directory, whatever the kind of run."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import pytest
from pydantic import BaseModel

from autoq.errors import RunDirectoryError
from autoq.runs.directory import KINDS, BaseRunDirectory, BaseSettingsDirectory, BaseSettingsRecord
from autoq.runs.lock import LOCK_NAME, hold_directory
from autoq.runs.proxy_check.run import ProxyCheckDirectory
from autoq.runs.search.directory import SearchDirectory
from autoq.runs.sensitivity import SensitivityDirectory
from autoq.runs.settings import CalibrationChoices


class Walk(BaseModel):
    seed: int
    steps: tuple[int, ...] = ()


class WalkDirectory(BaseRunDirectory[Walk]):
    holds: ClassVar[str] = "a walk"
    record_name: ClassVar[str] = "walk.json"
    record_type: ClassVar[type[Walk]] = Walk
    orphans: ClassVar[Mapping[str, str]] = {"walk.csv": "walk.csv without walk.json"}


class PlainDirectory(BaseRunDirectory[dict[str, Any]]):
    holds: ClassVar[str] = "a model"
    record_name: ClassVar[str] = "model.json"


class SettingsDirectory(BaseSettingsDirectory[BaseSettingsRecord]):
    holds: ClassVar[str] = "a run"
    record_name: ClassVar[str] = "some.json"
    record_type: ClassVar[type[BaseSettingsRecord]] = BaseSettingsRecord
    may_differ: ClassVar[frozenset[str]] = frozenset({"device"})


def listing(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*"))


def test_a_record_comes_back(tmp_path: Path) -> None:
    directory = WalkDirectory(tmp_path)
    assert directory.load() is None
    directory.save(Walk(seed=3, steps=(1, 2)))
    assert directory.load() == directory.require() == Walk(seed=3, steps=(1, 2))
    assert json.loads((tmp_path / "walk.json").read_text()) == {"seed": 3, "steps": [1, 2]}
    plain = PlainDirectory(tmp_path)
    plain.save({"seed": 3, "blocks": ["head"]})
    assert plain.require() == {"seed": 3, "blocks": ["head"]}


def test_no_record(tmp_path: Path) -> None:
    with pytest.raises(RunDirectoryError, match=r"is no run directory: it has no walk\.json"):
        WalkDirectory(tmp_path).require()
    with pytest.raises(RunDirectoryError, match=r"is no run directory: it has no walk\.json"):
        WalkDirectory(tmp_path / "absent").require()


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"seed": "x"}', "\x00"])
def test_damaged_records(tmp_path: Path, content: str) -> None:
    (tmp_path / "walk.json").write_text(content)
    with pytest.raises(RunDirectoryError) as caught:
        WalkDirectory(tmp_path).load()
    assert "walk.json' is damaged: " in str(caught.value)
    assert "delete it and what lies beside it, or choose another --out" in str(caught.value)
    assert "\n" not in str(caught.value)
    (tmp_path / "model.json").write_text("[]")
    with pytest.raises(RunDirectoryError, match=r"model\.json' is damaged"):
        PlainDirectory(tmp_path).load()


def test_a_new_directory_is_made_when_it_is_entered(tmp_path: Path) -> None:
    directory = WalkDirectory(tmp_path / "a" / "b")
    with directory.opened({"seed": 0}) as enter:
        assert listing(tmp_path) == []
        assert enter() is None
        assert listing(tmp_path) == [LOCK_NAME, "a", "b"]
        with pytest.raises(RunDirectoryError, match=f"in use by process {os.getpid()}"), hold_directory(directory.path):
            pass
    with hold_directory(directory.path):
        pass


def test_a_used_directory_is_held_at_once(tmp_path: Path) -> None:
    directory = WalkDirectory(tmp_path)
    directory.save(Walk(seed=0))
    with hold_directory(tmp_path), pytest.raises(RunDirectoryError, match="in use"), directory.opened({"seed": 0}):
        pass
    with directory.opened({"seed": 0}) as enter:
        with pytest.raises(RunDirectoryError, match="in use"), hold_directory(tmp_path):
            pass
        assert enter() == Walk(seed=0)


def test_wrong_input_leaves_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(KeyError), WalkDirectory(tmp_path / "a").opened({}):
        raise KeyError
    assert listing(tmp_path) == []


def test_what_another_process_wrote_meanwhile_counts(tmp_path: Path) -> None:
    directory = WalkDirectory(tmp_path)
    with directory.opened({"seed": 0}) as enter:
        directory.save(Walk(seed=1))
        with pytest.raises(RunDirectoryError, match=r"holds a walk with another seed \(was 1, is 0\)"):
            enter()
    with directory.opened({"seed": 1}) as enter:
        directory.save(Walk(seed=1, steps=(5,)))
        assert enter() == Walk(seed=1, steps=(5,))


def test_another_run_is_refused_by_what_differs(tmp_path: Path) -> None:
    directory = WalkDirectory(tmp_path)
    directory.save(Walk(seed=0, steps=(1,)))
    assert directory.refuse_other({"seed": 0}) == Walk(seed=0, steps=(1,))
    assert directory.refuse_other({"steps": (1,)}) is not None, "tuples are lists in a file"
    with pytest.raises(RunDirectoryError) as caught:
        directory.refuse_other({"seed": 2, "steps": [1, 2]})
    assert str(caught.value) == (
        f"{str(tmp_path)!r} holds a walk with another seed (was 0, is 2), steps (was [1], is [1, 2]); "
        "choose another --out or delete it"
    )


@pytest.mark.parametrize(("name", "what"), KINDS.items())
def test_directories_of_another_kind(tmp_path: Path, name: str, what: str) -> None:
    (tmp_path / name).write_text("{}")
    with pytest.raises(RunDirectoryError, match=f"holds {what}; choose another --out"):
        WalkDirectory(tmp_path).refuse_other({})


def test_files_of_unknown_origin(tmp_path: Path) -> None:
    (tmp_path / "walk.csv").write_text("1,2")
    with pytest.raises(RunDirectoryError, match=r"holds walk\.csv without walk\.json"):
        WalkDirectory(tmp_path).refuse_other({})
    WalkDirectory(tmp_path).save(Walk(seed=0))
    assert WalkDirectory(tmp_path).refuse_other({}) == Walk(seed=0)


@pytest.mark.parametrize("kind", [SearchDirectory, SensitivityDirectory, ProxyCheckDirectory])
def test_a_quantized_model_is_no_place_for_a_run(
    tmp_path: Path, kind: type[SearchDirectory | SensitivityDirectory | ProxyCheckDirectory]
) -> None:
    (tmp_path / "recipe.json").write_text("{}")
    with (
        pytest.raises(RunDirectoryError, match="holds a quantized model; choose another --out"),
        kind(tmp_path).opened({}),
    ):
        pytest.fail("is opened")
    assert listing(tmp_path) == ["recipe.json"]


def test_files_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    for path in (tmp_path / "file", tmp_path / "file" / "run"):
        directory = WalkDirectory(path)
        for act in (directory.refuse_unwritable, directory.held().__enter__):
            with pytest.raises(RunDirectoryError, match=r"cannot write to directory '.*choose another --out"):
                act()
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_read_only(tmp_path: Path) -> None:
    tmp_path.chmod(0o555)
    for path in (tmp_path, tmp_path / "run"):
        directory = WalkDirectory(path)
        for act in (directory.refuse_unwritable, directory.held().__enter__):
            with pytest.raises(RunDirectoryError, match="Permission denied; choose another --out"):
                act()
    tmp_path.chmod(0o755)


def test_read_only_is_asked_of_the_nearest_parent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As above, for root."""
    asked = []
    monkeypatch.setattr(os, "access", lambda path, mode: asked.append((path, mode)))
    with pytest.raises(RunDirectoryError, match="Permission denied; choose another --out"):
        WalkDirectory(tmp_path / "a" / "b").refuse_unwritable()
    assert asked == [(tmp_path, os.W_OK | os.X_OK)]


def test_settings_that_may_differ(tmp_path: Path) -> None:
    directory = SettingsDirectory(tmp_path)
    record = BaseSettingsRecord(settings=CalibrationChoices(), fingerprints={"images": "ab" * 32})
    directory.save(record)
    assert directory.refuse_other(directory.identity_of_settings(CalibrationChoices(device="cuda"))) == record
    with pytest.raises(RunDirectoryError, match=r"with another seed \(was 0, is 1\)"):
        directory.refuse_other(directory.identity_of_settings(CalibrationChoices(seed=1)))


def test_what_changed_under_its_name(tmp_path: Path) -> None:
    directory = SettingsDirectory(tmp_path)
    record = BaseSettingsRecord(settings=CalibrationChoices(), fingerprints={"images": "ab" * 32})
    directory.refuse_changed(None, {"images": "x"})
    directory.refuse_changed(record, {"images": "ab" * 32, "bank": "not known then"})
    with pytest.raises(RunDirectoryError, match=r"with another images \(was 'abababababab', is 'x'\)"):
        directory.refuse_changed(record, {"images": "x"})
