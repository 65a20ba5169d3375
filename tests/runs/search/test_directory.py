"""A run's directory: its record, and the runs that may not go on in it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from autoq.errors import RunDirectoryError
from autoq.runs.lock import LOCK_NAME
from autoq.runs.search.directory import SearchDirectory
from autoq.runs.search.record import RunRecord
from autoq.runs.search.settings import SearchSettings
from tests.runs.search.records import FINGERPRINTS, MODEL, make_record


def refuse_other(directory: SearchDirectory, settings: SearchSettings) -> RunRecord | None:
    return directory.refuse_other(directory.identity_of_settings(settings))


def test_a_record_comes_back(tmp_path: Path) -> None:
    directory = SearchDirectory(tmp_path)
    assert directory.load() is None
    record = make_record()
    directory.save(record)
    assert directory.require() == record


def test_naming_a_directory_makes_nothing(tmp_path: Path) -> None:
    directory = SearchDirectory(tmp_path / "run")
    assert directory.load() is None
    directory.refuse_unwritable()
    assert refuse_other(directory, SearchSettings()) is None
    assert not directory.path.exists()
    for _ in range(2):
        with directory.held():
            pass
    assert {path.name for path in directory.path.iterdir()} == {"recipes", LOCK_NAME}


def test_no_run(tmp_path: Path) -> None:
    with pytest.raises(RunDirectoryError, match=r"is no run directory: it has no run\.json"):
        SearchDirectory(tmp_path).require()
    with pytest.raises(RunDirectoryError, match="is no run directory"):
        SearchDirectory(tmp_path / "absent").require()


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"seed": 1}, "seed (was 0, is 1)"),
        ({"sampler": "tpe"}, "is 'tpe'"),
        ({"budget_bops": "w3a3"}, "budget_bops (was 'w4a4', is 'w3a3')"),
        ({"model": "vit_tiny_patch16_224", "calib_images": 64}, "model (was 'vit_digits', is 'vit_tiny_patch16_224')"),
        ({"model": "vit_tiny_patch16_224", "calib_images": 64}, "calib_images (was 128, is 64)"),
    ],
)
def test_other_settings_are_refused_by_name(tmp_path: Path, change: dict[str, Any], expected: str) -> None:
    directory = SearchDirectory(tmp_path)
    directory.save(make_record())
    with pytest.raises(RunDirectoryError) as caught:
        refuse_other(directory, SearchSettings(**change))
    assert expected in str(caught.value)
    assert "choose another --out or delete it" in str(caught.value)


def test_settings_that_may_differ(tmp_path: Path) -> None:
    directory = SearchDirectory(tmp_path)
    directory.save(make_record())
    longer = SearchSettings(trials=500, time_limit_seconds=60, device="cuda", eval_data="photos")
    assert refuse_other(directory, longer) == make_record()
    finer = SearchSettings(finish=True, reconstruct=True, reconstruct_iterations=5, reconstruct_images=7)
    assert refuse_other(directory, finer) == make_record()


def test_a_record_of_an_older_version_is_read(tmp_path: Path) -> None:
    directory = SearchDirectory(tmp_path)
    directory.save(make_record())
    document = json.loads((tmp_path / "run.json").read_text())
    del document["finished"], document["reconstructed"]
    for name in ("finish", "reconstruct", "reconstruct_iterations", "reconstruct_images"):
        del document["settings"][name]
    (tmp_path / "run.json").write_text(json.dumps(document))
    assert directory.require() == make_record()


def test_what_changed_under_its_name_is_refused(tmp_path: Path) -> None:
    directory, record = SearchDirectory(tmp_path), make_record()
    known = FINGERPRINTS | {"weights_sha256": MODEL.weights_sha256}
    directory.refuse_changed(record, known)
    directory.refuse_changed(None, known)
    for name in known:
        with pytest.raises(RunDirectoryError, match=rf"{name} \(was '\w{{12}}', is 'ffffffffffff'\)"):
            directory.refuse_changed(record, known | {name: "ff" * 32})
