"""What a calibrated recipe scores on its images, and on labelled ones."""

from __future__ import annotations

from pathlib import Path

import pytest

from autoq.calibration.settings import CalibrationSettings
from autoq.events import Event, PhaseAdvanced, PhaseStarted, ignore
from autoq.methods import BitWidths, create_method
from autoq.recipe import Recipe
from autoq.runs.calibrated import CalibratedRecipe
from autoq.runs.recipes import options_of
from autoq.scoring import Evaluator, measure_accuracy
from tests.runs.small_run import PHOTOS, small_session, write_photos

IMAGES = 8


@pytest.mark.parametrize("is_labelled", [False, True])
def test_scores(tmp_path: Path, is_labelled: bool) -> None:
    session = small_session()
    images = session.calibration_images("digits", IMAGES, 0)
    bank = session.bank(lambda: images, images.sha256, CalibrationSettings(observer="min_max"))
    sites = create_method("rtn").sites(session.traced, BitWidths.parse("w4a4"))
    bank.solve_all(options_of(sites))
    recipe = Recipe(model=session.reference, sites=sites)
    write_photos(tmp_path / "photos")
    labelled = session.labelled_images(str(tmp_path / "photos")) if is_labelled else None
    events: list[Event] = []
    score = CalibratedRecipe.from_bank(session, bank, recipe, images, labelled).score(bank, events.append)
    assert score.calibration_kl_nats is None
    expected = Evaluator(session.model, bank, images.tensor).evaluate(sites)
    assert (score.kl_nats, score.sqnr_db, score.images) == (expected.kl_nats, expected.sqnr_db, IMAGES)
    assert score.labelled_images == (PHOTOS if is_labelled else None)
    assert bool(score.metrics) is is_labelled
    if labelled is not None:
        session.model.remove_()
        full = measure_accuracy(session.model, labelled.batches())
        assert (score.full_precision, score.labels_by) == (full.metrics, "name")
    assert events[:2] == [PhaseStarted("score", IMAGES), PhaseAdvanced("score", IMAGES)]
    assert events[2:3] == ([PhaseStarted("accuracy", PHOTOS)] if is_labelled else [])
    assert events[-1] == (PhaseAdvanced("accuracy", PHOTOS) if is_labelled else events[1])


def test_scores_on_other_images_than_those_that_calibrated() -> None:
    session = small_session()
    images, scoring = session.calibration_images("digits", 40, 0).held_out(IMAGES)
    bank = session.bank(lambda: images, images.sha256, CalibrationSettings(observer="min_max"))
    sites = create_method("rtn").sites(session.traced, BitWidths.parse("w4a4"))
    recipe = Recipe(model=session.reference, sites=sites)
    score = CalibratedRecipe.from_bank(session, bank, recipe, images, scoring=scoring).score(bank, ignore)
    assert score.images == 32
    assert score.kl_nats == Evaluator(session.model, bank, scoring.tensor).evaluate(sites).kl_nats
    assert score.calibration_kl_nats == Evaluator(session.model, bank, images.tensor).evaluate(sites).kl_nats
