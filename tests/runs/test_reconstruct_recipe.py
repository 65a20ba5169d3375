"""Recipes of an open session, finished one after the other."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from autoq.calibration.settings import CalibrationSettings
from autoq.methods import BitWidths, create_method
from autoq.recipe import Recipe
from autoq.reconstruction.settings import ReconstructionSettings
from autoq.runs.calibrated import CalibratedRecipe
from autoq.runs.evaluate import evaluate_recipe
from autoq.runs.opening import calibration_reference
from autoq.runs.recipes import options_of
from autoq.runs.reconstruct_recipe import reconstruct_calibrated
from tests.runs.small_run import small_session, trace_once


def test_several_recipes_of_an_open_session(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a search finishes its front: one model, one bank."""
    trace_once(monkeypatch)
    session = small_session()
    images = session.calibration_images("digits", 16, 0)
    bank = session.bank(lambda: images, images.sha256, CalibrationSettings(observer="min_max"))
    training = ReconstructionSettings(iterations=1, batch=8, importance_images=8)
    scores = []
    for bits in ("w3a3", "w4a4"):
        sites = create_method("rtn").sites(session.traced, BitWidths.parse(bits))
        bank.solve_all(options_of(sites))
        calibration = calibration_reference(images, bank)
        recipe = Recipe(model=session.reference, sites=sites, calibration=calibration)
        finished = reconstruct_calibrated(
            CalibratedRecipe.from_bank(session, bank, recipe, images),
            images,
            tmp_path / bits,
            training,
            blocks=["head"],
        ).recipe
        assert finished.score is not None
        assert finished.cost is not None
        assert evaluate_recipe(finished.located(tmp_path / bits)).score.kl_nats == finished.score.kl_nats
        scores.append(finished.score.kl_nats)
    assert scores[1] < scores[0]
    session.model.remove_()
    noise = torch.randn(3, *session.loaded.input_size, generator=torch.Generator().manual_seed(0))
    assert torch.equal(session.model.run(noise)[0], session.traced.graph_module(noise))
