"""Accuracy of recipes, and the time that it takes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from autoq.calibration import Bank, CalibrationSettings
from autoq.methods import BitWidths, create_method
from autoq.runs.search.accuracy import AccuracyMeter
from autoq.runs.session import Session
from autoq.scoring import Evaluator, measure_accuracy
from autoq.scoring.accuracy import FullPrecision
from tests.runs.small_run import PHOTOS, small_session, write_photos


def make_meter(folder: Path) -> tuple[Session, Bank, AccuracyMeter]:
    """Return a meter on labelled photos, and the session and bank of its recipes."""
    session = small_session()
    images = session.calibration_images("digits", 8, 0)
    bank = session.bank(lambda: images, images.sha256, CalibrationSettings(observer="min_max"))
    write_photos(folder / "photos")
    labelled = session.labelled_images(str(folder / "photos"))
    assert labelled is not None
    evaluator = Evaluator(session.model, bank, images.tensor)
    return session, bank, AccuracyMeter(evaluator, labelled, FullPrecision(session.model, session.task))


def test_recipes_are_measured_on_the_labelled_images(tmp_path: Path) -> None:
    session, bank, meter = make_meter(tmp_path)
    assert meter.seconds is None
    sites = create_method("rtn").sites(session.traced, BitWidths.parse("w2a2"))
    two, full = meter.measure(sites), meter.measure_full_precision()
    assert meter.seconds is not None
    assert (two.images, full.images) == (PHOTOS, PHOTOS)
    assert two.metrics["top1_percent"] < full.metrics["top1_percent"]
    assert full.kl_nats is None
    photos = torch.cat([batch for batch, _ in meter.labelled.batches()])
    assert two.kl_nats == pytest.approx(Evaluator(session.model, bank, photos).evaluate(sites).kl_nats)
    assert meter.measure({}).kl_nats == 0
    session.model.remove_()
    assert full.metrics == measure_accuracy(session.model, meter.labelled.batches()).metrics


def test_the_time_of_full_precision_is_not_a_recipes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    session, _, meter = make_meter(tmp_path)
    clock = iter(range(0, 1000, 10))
    monkeypatch.setattr("time.monotonic", lambda: float(next(clock)))
    sites = create_method("rtn").sites(session.traced, BitWidths.parse("w2a2"))
    batches = sum(1 for _ in meter.labelled.batches())
    meter.measure(sites)  # the clock is read at the start, twice for each batch of full precision, and at the end
    assert meter.full_precision.seconds == 10 * batches
    assert meter.seconds == 10 + 10 * batches
    meter.measure(sites)
    assert meter.seconds == 10
