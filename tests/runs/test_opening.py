"""A run opened: from settings to a model, images and a directory, by name or from objects."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

import pytest
import torch

from autoq.errors import DataError, RunDirectoryError, SpaceError
from autoq.events import Event, PhaseAdvanced, PhaseStarted
from autoq.recipe import OperandConfig
from autoq.runs.directory import BaseSettingsDirectory, BaseSettingsRecord
from autoq.runs.lock import LOCK_NAME, hold_directory
from autoq.runs.opening import GivenObjects, ObservedImages, open_bank, open_run, solve_bank
from autoq.runs.session import Session
from autoq.runs.settings import PLAIN_CALIBRATION, CalibrationChoices
from tests.runs.small_run import PHOTOS, small_session, trace_once, write_photos

IMAGES = 4


class SomeDirectory(BaseSettingsDirectory[BaseSettingsRecord]):
    holds: ClassVar[str] = "a run"
    record_name: ClassVar[str] = "some.json"
    record_type: ClassVar[type[BaseSettingsRecord]] = BaseSettingsRecord
    may_differ: ClassVar[frozenset[str]] = frozenset({"device"})


def settings(**changes: object) -> CalibrationChoices:
    return CalibrationChoices.model_validate(
        {"calib_images": IMAGES, "space": "bits_only", **PLAIN_CALIBRATION, **changes}
    )


@pytest.fixture(autouse=True)
def _traced_once(monkeypatch: pytest.MonkeyPatch) -> None:
    trace_once(monkeypatch)


def test_what_a_run_works_on(tmp_path: Path) -> None:
    write_photos(tmp_path / "photos")
    directory, events = SomeDirectory(tmp_path / "run"), list[Event]()
    with open_run(directory, settings(), progress=events.append, eval_data=str(tmp_path / "photos")) as (
        inputs,
        record,
    ):
        assert record is None
        assert [path.name for path in directory.path.iterdir()] == [LOCK_NAME]
        with pytest.raises(RunDirectoryError, match="in use"), hold_directory(directory.path):
            pass
    assert torch.equal(inputs.images.tensor, small_session().calibration_images("digits", IMAGES, 0).tensor)
    assert inputs.labelled is not None
    assert inputs.labelled.count == PHOTOS
    assert (inputs.space.name, inputs.session) == ("bits_only", small_session())
    assert events == [PhaseStarted("model", detail="vit_digits"), PhaseStarted("images", IMAGES, "digits")]


def test_an_earlier_record_comes_with_it(tmp_path: Path) -> None:
    directory = SomeDirectory(tmp_path)
    known = BaseSettingsRecord(settings=settings(), fingerprints={"space": "x"})
    directory.save(known)
    with open_run(directory, settings(device="cpu")) as (_, record):
        assert record == known
    with pytest.raises(RunDirectoryError, match=r"holds a run with another seed \(was 0, is 1\)"):
        open_run(directory, settings(seed=1)).__enter__()


@pytest.mark.parametrize("is_used", [False, True])
def test_a_directory_that_is_refused_loads_no_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_used: bool
) -> None:
    monkeypatch.setattr(Session, "open", lambda *_: pytest.fail("loaded"))
    directory = SomeDirectory(tmp_path)
    if is_used:
        directory.save(BaseSettingsRecord(settings=settings(), fingerprints={}))
        with hold_directory(tmp_path), pytest.raises(RunDirectoryError, match=f"in use by process {os.getpid()}"):
            open_run(directory, settings()).__enter__()
    else:
        (tmp_path / "run.json").write_text("{}")
        with pytest.raises(RunDirectoryError, match="holds a search"):
            open_run(directory, settings()).__enter__()


@pytest.mark.parametrize(
    ("changes", "error"), [({"data": "absent/images"}, DataError), ({"space": "absent"}, SpaceError)]
)
def test_wrong_input_leaves_nothing(tmp_path: Path, changes: Mapping[str, object], error: type[Exception]) -> None:
    directory = SomeDirectory(tmp_path / "run")
    with pytest.raises(error):
        open_run(directory, settings(**changes)).__enter__()
    with pytest.raises(DataError):
        open_run(directory, settings(), eval_data="absent/images").__enter__()

    def refuse(*_: object) -> None:
        raise SpaceError

    with pytest.raises(SpaceError):
        open_run(directory, settings(), check=refuse).__enter__()
    assert not directory.path.exists()


def test_objects_in_place_of_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    session = small_session()
    monkeypatch.setattr(Session, "open", lambda *_: pytest.fail("loaded"))
    images = torch.rand(6, *session.loaded.input_size, generator=torch.Generator().manual_seed(0))
    given = GivenObjects(session=session, data=images, eval_data=(images, torch.arange(6)))
    with open_run(SomeDirectory(tmp_path), settings(data="no such name"), given) as (inputs, _):
        pass
    assert inputs.session.model is session.model
    assert len(inputs.images.tensor) == IMAGES
    assert all(any(torch.equal(one, other) for other in images) for one in inputs.images.tensor)
    assert inputs.labelled is not None
    assert torch.cat([labels for _, labels in inputs.labelled.batches()]).tolist() == list(range(6))
    more = given.calibration_images(session, settings(), 6)
    assert len(more.tensor) == 6
    assert more.data == inputs.images.data != "no such name"


def test_a_bank_is_kept_and_reparameterized_ones_are_others(tmp_path: Path) -> None:
    session, choices = small_session(), settings()
    images = session.calibration_images("digits", IMAGES, 0)
    options = [("head", "weight", config) for config in _configs(4, 8)]
    _, bank = open_bank(session, images, choices, tmp_path / "bank")
    events: list[Event] = []
    solve_bank(bank, options, tmp_path / "bank", events.append)
    assert events[0] == PhaseStarted("calibration", 2)
    assert events[-1] == PhaseAdvanced("calibration", 2)
    _, again = open_bank(session, images, choices, tmp_path / "bank")
    assert (len(again), again.fingerprint) == (2, bank.fingerprint)
    rescaled, other = open_bank(session, images, settings(reparameterize=True), tmp_path / "other")
    assert rescaled.reparameterized
    assert other.fingerprint != bank.fingerprint
    _, second_order = open_bank(session, images, settings(second_order=True), tmp_path / "another")
    assert second_order.settings.second_order
    assert second_order.fingerprint not in (bank.fingerprint, other.fingerprint)
    rotated, third = open_bank(session, images, settings(reparameterize=True, rotate=True), tmp_path / "third")
    assert "blocks.0.attn.qk" in rotated.rotated
    assert rotated.reparameterized == rescaled.reparameterized
    assert third.description["rotated"] == rotated.rotated
    assert not torch.equal(
        rotated.folded.factors["blocks.0.norm1"].ratio, rescaled.folded.factors["blocks.0.norm1"].ratio
    )  # of what the rotated model has there
    centred, fourth = open_bank(session, images, settings(centre_keys=True), tmp_path / "fourth")
    assert fourth.description["centred"] == list(centred.folded.centres)
    assert "blocks.0.attn.qk" in centred.folded.centres
    solve_bank(fourth, options, tmp_path / "fourth")
    again, _ = open_bank(session, images, settings(centre_keys=True), tmp_path / "fourth")
    assert again.folded.centres.keys() == centred.folded.centres.keys()
    assert all(torch.equal(centre, centred.folded.centres[name]) for name, centre in again.folded.centres.items())
    with pytest.raises(RunDirectoryError, match=r"stale: it differs in .*images_sha256"):
        open_bank(session, session.calibration_images("digits", IMAGES, 1), choices, tmp_path / "bank")


def _configs(*bits: int) -> list[OperandConfig]:
    return [OperandConfig(scheme="uniform", bits=each, granularity="channel") for each in bits]


def test_every_pass_over_the_images_is_a_phase() -> None:
    events: list[Event] = []
    observed = ObservedImages(3, events.append)
    for batch in (2, 1, 3):
        observed(batch)
    started = PhaseStarted("capture", 3)
    assert events == [
        started,
        PhaseAdvanced("capture", 2),
        PhaseAdvanced("capture", 3),
        started,
        PhaseAdvanced("capture", 3),
    ]
