"""What a worker takes from the bank of its driver."""

from __future__ import annotations

import gc
import weakref
from dataclasses import replace
from pathlib import Path

import pytest

from autoq.data import fingerprint
from autoq.errors import RunDirectoryError, RunError
from autoq.graph.insert import QuantizedModel
from autoq.recipe import OperandConfig
from autoq.runs.images import CalibrationImages
from tests.runs.search.states import make_state
from tests.runs.search.test_chunks import SETTINGS, bank_of
from tests.runs.small_run import small_session

OPTIONS = [("head", "weight", OperandConfig(scheme="uniform", bits=bits, granularity="channel")) for bits in (3, 4)]


def test_only_what_is_missing_is_read_and_nothing_is_solved(tmp_path: Path) -> None:
    session = small_session()
    images = session.calibration_images("digits", 8, 0)
    driver, bank = bank_of(session, images), bank_of(session, images)
    worker, saved = make_state(session, images, bank, tmp_path), tmp_path / "bank"
    with pytest.raises(RunError, match=r"has no head:weight at \{.*\} yet: does this machine see what the driver has"):
        worker.require(OPTIONS[:1])
    driver.solve_into(saved, OPTIONS[:1], lambda *_: None)
    worker.require(OPTIONS[:1])
    before = bank.quantizer(*OPTIONS[0])
    worker.require(OPTIONS[:1])
    assert bank.quantizer(*OPTIONS[0]) is before, "not read again"
    assert OPTIONS[1] not in bank
    driver.solve_into(saved, OPTIONS, lambda *_: None)
    worker.require_sites({"head": {"weight": OPTIONS[1][2]}})
    assert OPTIONS[1] in bank
    others = session.calibration_images("digits", 9, 0)
    stale = make_state(session, others, session.bank(lambda: others, others.sha256, SETTINGS), tmp_path)
    with pytest.raises(RunDirectoryError, match="is stale"):
        stale.require(OPTIONS[:1])


def test_the_driver_solves_what_it_needs(tmp_path: Path) -> None:
    session = small_session()
    images = session.calibration_images("digits", 8, 0)
    state = make_state(session, images, bank_of(session, images), tmp_path, is_owner=True)
    state.require(OPTIONS)
    assert len(state.bank) == 0, "whoever asks for a quantizer has it solved"
    assert state.meter is None
    with pytest.raises(RunError, match="labelled images that the driver has are not here"):
        state.require_labelled()
    assert state.evaluator is state.evaluator
    assert state.calibration_evaluator is not state.evaluator


def test_what_scoring_held_is_given_back(tmp_path: Path) -> None:
    session = small_session()
    images = session.calibration_images("digits", 8, 0)
    labelled = session.labelled_images("digits/val")
    state = make_state(session, images, bank_of(session, images), tmp_path, open_labelled=lambda: labelled)
    assert state.meter is not None
    evaluator, full_precision = weakref.ref(state.evaluator), state.full_precision
    assert state.meter.full_precision is state.loaded_full_precision is full_precision
    state.release()
    gc.collect()
    assert evaluator() is None
    assert state.full_precision is full_precision, "finished recipes are compared with it"


def test_full_precision_of_a_model_with_something_folded_into_it_is_another(tmp_path: Path) -> None:
    session = small_session()
    images = session.calibration_images("digits", 8, 0)
    folded = replace(session, model=QuantizedModel(session.traced))
    state = make_state(folded, images, bank_of(folded, images), tmp_path, loaded=session)
    assert state.loaded_full_precision is not state.full_precision


def test_images_to_learn_from_are_loaded_once(tmp_path: Path) -> None:
    session, loads = small_session(), list[int]()
    both = session.calibration_images("digits", 44, 0).held_out(12)

    def load(wanted: int, spare: int) -> CalibrationImages:
        loads.append(wanted)
        return session.calibration_images("digits", wanted, 0, spare)

    bank = bank_of(session, both[0])
    state = make_state(session, both[0], bank, tmp_path, scoring=both[1], load_images=load)
    found = state.to_learn_from(20)
    assert state.to_learn_from(20) is found
    assert loads == [20]
    assert not {fingerprint(each) for each in found.tensor} & {fingerprint(each) for each in both[1].tensor}
    assert len(state.to_learn_from(4).tensor) == 4


def test_fewer_workers_than_there_are_have_more_threads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    session = small_session()
    images = session.calibration_images("digits", 8, 0)
    counts = [2]
    monkeypatch.setattr("torch.get_num_threads", lambda: counts[-1])
    monkeypatch.setattr("torch.set_num_threads", counts.append)
    state = make_state(session, images, bank_of(session, images), tmp_path, threads=16)
    for busy, threads in ((1, 16), (3, 5), (8, 2), (20, 2)):
        with state.side_by_side(busy):
            assert counts[-1] == threads
        assert counts[-1] == 2
    counts.append(7)
    with replace(state, threads=None).side_by_side(1):
        assert counts[-1] == 7, "a worker that shares its machine with nobody, or the driver"
