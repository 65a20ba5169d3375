"""``autoq finish`` as a run: what lies in its directory, fresh processes, reconstruction on top, refusals."""

from __future__ import annotations

from pathlib import Path

import pytest

from autoq.errors import MethodError, RecipeError, RunDirectoryError
from autoq.methods import BitWidths, create_method
from autoq.recipe import Recipe
from autoq.reconstruction.finishing import FinishingSettings
from autoq.reconstruction.settings import ReconstructionSettings
from autoq.runs.evaluate import evaluate_recipe
from autoq.runs.finish import FinishSettings, finish_recipe
from autoq.runs.quantize import QuantizeSettings, quantize
from autoq.runs.recipe_work import make_checked
from autoq.runs.reconstruct import ReconstructSettings, reconstruct_recipe
from tests.runs.small_run import small_session


@pytest.fixture
def calibrated(tmp_path: Path) -> Recipe:
    """A recipe at three bits, and its bank beside it."""
    settings = QuantizeSettings(data="digits", out=tmp_path / "calibrated", images=16)
    quantize(small_session(), create_method("rtn"), BitWidths.parse("w3a6"), settings)
    return Recipe.load(tmp_path / "calibrated" / "recipe.json")


def test_a_finished_recipe_is_whole(calibrated: Recipe, tmp_path: Path) -> None:
    session = small_session()
    settings = FinishSettings(out=tmp_path / "finished", images=64)
    finished = finish_recipe(calibrated, settings, session=session)
    assert calibrated.score is not None
    assert finished.score is not None
    assert finished.finishing is not None
    assert finished.finishing.images == 64
    assert finished.score.kl_nats < calibrated.score.kl_nats
    assert finished.content_hash != calibrated.content_hash
    assert (finished.sites, finished.cost) == (calibrated.sites, calibrated.cost)
    read = Recipe.load(tmp_path / "finished" / "recipe.json")
    assert read == finished
    assert evaluate_recipe(read, session=small_session()).score.kl_nats == finished.score.kl_nats
    rows = (tmp_path / "finished" / "finishing.csv").read_text().splitlines()
    assert rows[0] == "site,before,after"
    assert len(rows) == 1 + sum("weight" in operands for operands in finished.sites.values())
    before = (tmp_path / "finished" / "recipe.safetensors").stat().st_mtime_ns
    assert finish_recipe(calibrated, settings, session=session) == finished
    assert (tmp_path / "finished" / "recipe.safetensors").stat().st_mtime_ns == before, "nothing is done twice"


def test_reconstruction_starts_from_finished_weights(calibrated: Recipe, tmp_path: Path) -> None:
    finished = finish_recipe(calibrated, FinishSettings(out=tmp_path / "finished", images=64), session=small_session())
    training = ReconstructionSettings(iterations=1, batch=8, importance_images=8)
    settings = ReconstructSettings(out=tmp_path / "both", images=16, training=training, blocks=("head",))
    both = reconstruct_recipe(finished, settings, session=small_session()).recipe
    assert both.finishing == finished.finishing
    assert both.reconstruction is not None
    assert both.score is not None
    assert finished.score is not None
    assert calibrated.score is not None
    assert both.score.kl_nats < calibrated.score.kl_nats
    read = Recipe.load(tmp_path / "both" / "recipe.json")
    assert evaluate_recipe(read, session=small_session()).score.kl_nats == both.score.kl_nats


def test_refusals(calibrated: Recipe, tmp_path: Path) -> None:
    finished = finish_recipe(calibrated, FinishSettings(out=tmp_path / "finished", images=16), session=small_session())
    with pytest.raises(RecipeError, match="the recipe is finished already: give the calibrated one"):
        finish_recipe(finished, FinishSettings(out=tmp_path / "again"), session=small_session())
    assert not (tmp_path / "again").exists()
    with pytest.raises(RunDirectoryError, match="holds a finished recipe with another images_sha256"):
        finish_recipe(calibrated, FinishSettings(out=tmp_path / "finished", images=8), session=small_session())
    (tmp_path / "finished" / "recipe.safetensors").unlink()
    with pytest.raises(RecipeError, match="it is missing"):
        evaluate_recipe(finished, session=small_session())
    with pytest.raises(MethodError, match="ridge of finishing is -1: it must be positive"):
        make_checked(FinishingSettings, {"ridge": -1})
