"""What a worker takes from the bank of its driver."""

from __future__ import annotations

import gc
import weakref
from pathlib import Path

import pytest

from autoq.errors import RunDirectoryError, RunError
from autoq.recipe import OperandConfig
from autoq.runs.search.state import SearchState
from tests.runs.search.test_chunks import SETTINGS, bank_of
from tests.runs.small_run import small_session

OPTIONS = [("head", "weight", OperandConfig(scheme="uniform", bits=bits, granularity="channel")) for bits in (3, 4)]


def test_only_what_is_missing_is_read_and_nothing_is_solved(tmp_path: Path) -> None:
    session = small_session()
    images = session.calibration_images("digits", 8, 0)
    driver, bank = bank_of(session, images), bank_of(session, images)
    worker = SearchState(session, bank, images, images, lambda: None, tmp_path)
    with pytest.raises(RunError, match=r"has no head:weight at \{.*\} yet: does this machine see what the driver has"):
        worker.require(OPTIONS[:1])
    driver.solve_into(tmp_path, OPTIONS[:1], lambda *_: None)
    worker.require(OPTIONS[:1])
    before = bank.quantizer(*OPTIONS[0])
    worker.require(OPTIONS[:1])
    assert bank.quantizer(*OPTIONS[0]) is before, "not read again"
    assert OPTIONS[1] not in bank
    driver.solve_into(tmp_path, OPTIONS, lambda *_: None)
    worker.require_sites({"head": {"weight": OPTIONS[1][2]}})
    assert OPTIONS[1] in bank
    others = session.calibration_images("digits", 9, 0)
    stale = SearchState(
        session, session.bank(lambda: others, others.sha256, SETTINGS), others, others, lambda: None, tmp_path
    )
    with pytest.raises(RunDirectoryError, match="is stale"):
        stale.require(OPTIONS[:1])


def test_the_driver_solves_what_it_needs() -> None:
    session = small_session()
    images = session.calibration_images("digits", 8, 0)
    state = SearchState(session, bank_of(session, images), images, images, lambda: None)
    state.require(OPTIONS)
    assert len(state.bank) == 0, "whoever asks for a quantizer has it solved"
    assert state.meter is None
    assert state.evaluator is state.evaluator
    assert state.calibration_evaluator is not state.evaluator


def test_what_scoring_held_is_given_back() -> None:
    session = small_session()
    images = session.calibration_images("digits", 8, 0)
    labelled = session.labelled_images("digits/val")
    state = SearchState(session, bank_of(session, images), images, images, lambda: labelled)
    assert state.meter is not None
    evaluator, full_precision = weakref.ref(state.evaluator), state.full_precision
    assert state.meter.full_precision is full_precision
    state.release()
    gc.collect()
    assert evaluator() is None
    assert state.full_precision is full_precision, "finished recipes are compared with it"
