"""What is opened to work on a recipe: checked settings, the model at hand, images that did not score."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from autoq.errors import MethodError, RecipeError
from autoq.events import PhaseStarted, ignore
from autoq.methods import BitWidths, create_method
from autoq.reconstruction.finishing import FinishingSettings
from autoq.runs.images import CalibrationImages, to_learn_from
from autoq.runs.quantize import QuantizeSettings, quantize
from autoq.runs.recipe_work import RecipeWork, make_checked, open_session
from tests.runs.small_run import small_session


def test_settings_have_defaults_and_are_checked() -> None:
    assert make_checked(FinishingSettings, {"ridge": None}) == FinishingSettings()
    assert make_checked(FinishingSettings, {"ridge": 2.0}).ridge == 2.0
    with pytest.raises(MethodError, match="ridge of finishing is 0: it must be positive"):
        make_checked(FinishingSettings, {"ridge": 0})


def test_a_calibrated_recipe_is_opened_with_its_bank(tmp_path: Path) -> None:
    settings = QuantizeSettings(data="digits", out=tmp_path, images=8)
    recipe = quantize(small_session(), create_method("rtn"), BitWidths.parse("w4a8"), settings).located(tmp_path)
    events: list[object] = []
    session = open_session(recipe, None, "cpu", small_session(), events.append)
    assert [event.phase for event in events if isinstance(event, PhaseStarted)] == ["model"]
    entered: list[bool] = []
    calibrated, images = RecipeWork(None, 12, 0).open(session, recipe, lambda: entered.append(True), ignore)
    assert entered == [True]
    assert (len(calibrated.images.tensor), len(images.tensor), images.data) == (8, 12, "digits")
    assert calibrated.operands.sites == recipe.sites
    other = recipe.model_copy(update={"model": recipe.model.model_copy(update={"weights_sha256": "0" * 64})})
    with pytest.raises(RecipeError, match="was made for the weights 000000000000"):
        open_session(other, None, "cpu", small_session(), ignore)


def test_images_that_score_teach_nothing() -> None:
    session = small_session()
    loaded = session.calibration_images("digits", 24, 0)
    _, scoring = loaded.held_out(8)
    asked: list[tuple[int, int]] = []

    def load(count: int, spare: int) -> CalibrationImages:
        asked.append((count, spare))
        return session.calibration_images("digits", count, 1, spare)

    assert len(to_learn_from(load, 16, None).tensor) == 16
    images = to_learn_from(load, 16, scoring)
    assert asked == [(16, 0), (16, len(scoring.tensor))]
    assert len(images.tensor) == 16
    assert not any(torch.equal(image, other) for image in images.tensor for other in scoring.tensor)
