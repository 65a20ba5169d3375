"""A recipe file on its own: what it takes to reproduce its score, and which recipes are refused."""

from __future__ import annotations

import json
import logging
import shutil
import subprocess
import sys
import textwrap
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from autoq.calibration import CalibrationSettings
from autoq.errors import InputError, NonFiniteError, RecipeError
from autoq.exporters import pick
from autoq.methods import BitWidths, create_method
from autoq.recipe import ModelReference, OperandConfig, Recipe
from autoq.reconstruction.settings import ReconstructionSettings
from autoq.runs.calibrated import CalibratedRecipe
from autoq.runs.evaluate import evaluate_recipe
from autoq.runs.images import ImageReader
from autoq.runs.opening import calibration_reference
from autoq.runs.reconstruct_recipe import reconstruct_calibrated
from autoq.runs.transforming import centre_keys_for, rescale_for
from tests.runs.small_run import PHOTOS, finished_run, small_session, trace_once

PROCESS = """
    import json, logging, sys
    from pathlib import Path
    from autoq.recipe import Recipe
    from autoq.runs.evaluate import evaluate_recipe
    logging.basicConfig(stream=sys.stderr)
    for path in map(Path, sys.argv[1:]):
        found = evaluate_recipe(Recipe.load(path), device="cpu")
        print(json.dumps([vars(found.score), found.cost.record().model_dump()]))
"""


@pytest.fixture(scope="module")
def run() -> Path:
    return finished_run()


@pytest.fixture(scope="module")
def recipe(run: Path) -> Recipe:
    return pick(run, "best")[1]


@pytest.fixture
def _traced_once(monkeypatch: pytest.MonkeyPatch) -> None:
    trace_once(monkeypatch)


@pytest.mark.slow
def test_a_fresh_process_reproduces_the_score_exactly(run: Path, recipe: Recipe, tmp_path: Path) -> None:
    """With its bank in ``../bank``, with its bank in ``bank``, and with no bank, solved again."""
    assert any(c.scheme == "adalog" for operands in recipe.sites.values() for c in operands.values())
    inside, beside, alone = (tmp_path / name for name in ("run/recipes/a.json", "moved/a.json", "alone/a.json"))
    for path in (inside, beside, alone):
        path.parent.mkdir(parents=True)
        recipe.save(path)
    shutil.copytree(run / "bank", tmp_path / "run" / "bank")
    shutil.copytree(run / "bank", tmp_path / "moved" / "bank")
    command = [sys.executable, "-c", textwrap.dedent(PROCESS), *map(str, (inside, beside, alone))]
    process = subprocess.run(command, capture_output=True, text=True, check=True)
    assert recipe.score is not None
    stored = recipe.score.model_dump(include={"kl_nats", "agreement_percent", "sqnr_db", "output_mse", "images"})
    assert recipe.cost is not None
    found = [json.loads(line) for line in process.stdout.splitlines()]
    assert found == [[stored, recipe.cost.model_dump()]] * 3
    assert process.stderr.count("solving it again from digits") == 1


@pytest.mark.slow
def test_a_fresh_process_reproduces_the_score_of_second_order_weights(tmp_path: Path) -> None:
    """Their codes come out of the bank, or are found again without it."""
    session = small_session()
    images = session.calibration_images("digits", 12, 0)
    settings = CalibrationSettings(observer="min_max", second_order=True)
    bank = session.bank(lambda: images, images.sha256, settings)
    sites = create_method("rtn").sites(session.traced, BitWidths.parse("w3a8"))
    recipe = Recipe(model=session.reference, sites=sites, calibration=calibration_reference(images, bank))
    assert recipe.calibration is not None
    assert recipe.calibration.settings == {"second_order": True}
    scored = CalibratedRecipe.from_bank(session, bank, recipe, images).score(bank, lambda _: None)
    nearest = session.bank(lambda: images, images.sha256, replace(settings, second_order=False))
    assert (
        scored.kl_nats
        < 0.5 * CalibratedRecipe.from_bank(session, nearest, recipe, images).score(nearest, lambda _: None).kl_nats
    )
    session.model.remove_()
    bank.save(tmp_path / "with" / "bank")
    paths = [tmp_path / "with" / "a.json", tmp_path / "without" / "a.json"]
    paths[1].parent.mkdir()
    for path in paths:
        recipe.save(path)
    command = [sys.executable, "-c", textwrap.dedent(PROCESS), *map(str, paths)]
    process = subprocess.run(command, capture_output=True, text=True, check=True)
    assert process.stderr.count("solving it again from digits") == 1
    assert [json.loads(line)[0]["kl_nats"] for line in process.stdout.splitlines()] == [scored.kl_nats] * 2


@pytest.mark.usefixtures("_traced_once")
def test_the_bank_decides_the_score(run: Path, recipe: Recipe, tmp_path: Path) -> None:
    """Else the test above would pass without reading it: a recipe with another range observer scores otherwise."""
    assert recipe.calibration is not None
    calibration = recipe.calibration.model_copy(update={"observer": "min_max"})
    other = recipe.model_copy(update={"calibration": calibration})
    assert recipe.score is not None
    assert evaluate_recipe(other.located(tmp_path)).score.kl_nats != recipe.score.kl_nats
    assert evaluate_recipe(recipe.located(run / "recipes")).score.kl_nats == recipe.score.kl_nats


@pytest.mark.usefixtures("_traced_once")
def test_a_bank_that_is_not_the_recipes_is_not_used(
    run: Path, recipe: Recipe, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.copytree(run / "bank", tmp_path / "bank")
    assert recipe.calibration is not None
    calibration = recipe.calibration.model_copy(update={"bank_fingerprint": "0" * 16})
    with caplog.at_level(logging.WARNING):
        evaluate_recipe(recipe.model_copy(update={"calibration": calibration}).located(tmp_path))
    assert "solving it again" in caplog.text
    assert "expect another score" in caplog.text


@pytest.mark.usefixtures("_traced_once")
def test_on_labelled_images(run: Path, recipe: Recipe) -> None:
    found = evaluate_recipe(recipe.located(run / "recipes"), str(run.parent / "photos"))
    assert found.accuracy is not None
    assert recipe.score is not None
    assert found.accuracy.images == found.score.images == recipe.score.labelled_images == PHOTOS
    assert found.accuracy.metrics == pytest.approx(recipe.score.metrics)
    assert found.accuracy.metrics.keys() == {"top1_percent", "top5_percent"}


@pytest.mark.usefixtures("_traced_once")
def test_on_images_without_labels(run: Path, recipe: Recipe, tmp_path: Path) -> None:
    from PIL import Image

    for shade in range(3):
        Image.new("L", (8, 8), 80 * shade).save(tmp_path / f"{shade}.png")
    found = evaluate_recipe(recipe.located(run / "recipes"), str(tmp_path))
    assert found.accuracy is None
    assert found.score.images == 3


def refusal(recipe: Recipe, folder: Path, **arguments: Any) -> str:
    with pytest.raises(InputError) as caught:
        evaluate_recipe(recipe.located(folder), **arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.usefixtures("_traced_once")
def test_recipes_that_are_refused(run: Path, recipe: Recipe) -> None:
    others = ModelReference(name="theirs", weights_sha256="ab" * 32)
    message = refusal(recipe.model_copy(update={"model": others}), run / "recipes", model="vit_digits")
    assert "made for the weights abababababab of 'theirs'" in message
    assert "'vit_digits' has d0652f4eb4b8" in message

    sites = recipe.sites | {"blocks.9.mlp.fc1": {"input": OperandConfig(scheme="uniform", bits=4)}}
    assert "no site 'blocks.9.mlp.fc1'" in refusal(recipe.model_copy(update={"sites": sites}), run)

    assert "--calib-data" in refusal(recipe.model_copy(update={"calibration": None}), run)

    assert recipe.calibration is not None
    calibration = recipe.calibration.model_copy(update={"data": "absent/images", "bank_fingerprint": ""})
    assert "absent/images" in refusal(recipe.model_copy(update={"calibration": calibration}), run)

    calibration = recipe.calibration.model_copy(update={"observer": "mze", "bank_fingerprint": ""})
    message = refusal(recipe.model_copy(update={"calibration": calibration}), run)
    assert "'mze'" in message
    assert "Did you mean 'mse'?" in message


def test_the_models_absence_is_the_users_error(recipe: Recipe, tmp_path: Path) -> None:
    with pytest.raises(RecipeError):
        Recipe.load(tmp_path / "absent.json")
    gone = recipe.model_copy(update={"model": ModelReference(name=f"local-dir:{tmp_path}", weights_sha256="0")})
    assert str(tmp_path) in refusal(gone, tmp_path)


@pytest.mark.usefixtures("_traced_once")
def test_calibration_images_may_be_given(
    run: Path, recipe: Recipe, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """For a recipe written by hand, and for one whose images have moved."""
    calibration = recipe.calibration
    assert calibration is not None
    moved = recipe.model_copy(update={"calibration": calibration.model_copy(update={"data": "absent/images"})})
    again = evaluate_recipe(moved.located(tmp_path), calib_data=calibration.data, device="cpu")
    assert recipe.score is not None
    assert again.score.kl_nats == recipe.score.kl_nats
    caplog.clear()
    written = recipe.model_copy(update={"calibration": None})
    found = evaluate_recipe(written.located(run), calib_data=calibration.data, device="cpu")
    assert found.score.images >= calibration.images
    assert found.score.kl_nats > 0
    assert "bank" not in caplog.text


@pytest.mark.usefixtures("_traced_once")
def test_what_is_not_finite_is_an_error(
    run: Path, recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from PIL import Image

    Image.new("L", (8, 8)).save(tmp_path / "a.png")
    monkeypatch.setattr(ImageReader, "unlabelled_batches", lambda *_: iter([torch.full((1, 1, 8, 8), torch.nan)]))
    with pytest.raises(NonFiniteError) as caught:
        evaluate_recipe(recipe.located(run / "recipes"), str(tmp_path), device="cpu")
    assert caught.value.site == "patch_embed.proj"


@pytest.fixture(scope="module")
def reconstructed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a reconstructed recipe of a rotated model with rescaled LayerNorms, not to be written to."""
    folder = tmp_path_factory.mktemp("reconstructed")
    method, bits = create_method("repq-vit"), BitWidths(3, 3, 3)
    session = small_session()
    images = session.calibration_images("digits", 16, 0)
    sites, norms = method.sites(session.traced, bits), method.reparameterized(session.traced, bits)
    rotated = {"patch_embed.proj": 3, "blocks.0.attn.qk": 0, "blocks.1.attn.av": 5}
    session = centre_keys_for(session.rotated_by(rotated), lambda: images)
    session = rescale_for(session, norms, lambda: images, CalibrationSettings())
    bank = session.bank(lambda: images, images.sha256, method.settings(0), recipe_sites=sites)
    calibration = calibration_reference(images, bank)
    recipe = Recipe(
        model=session.reference,
        sites=sites,
        rotated=rotated,
        centred=tuple(session.folded.centres),
        reparameterized=norms,
        calibration=calibration,
    )
    training = ReconstructionSettings(iterations=2, batch=8, importance_images=8)
    reconstruct_calibrated(CalibratedRecipe.from_bank(session, bank, recipe, images), images, folder, training)
    return folder


@pytest.mark.slow
def test_a_fresh_process_reproduces_the_score_of_a_reconstructed_recipe(reconstructed: Path) -> None:
    command = [sys.executable, "-c", textwrap.dedent(PROCESS), str(reconstructed / "recipe.json")]
    process = subprocess.run(command, capture_output=True, text=True, check=True)
    score = Recipe.load(reconstructed / "recipe.json").score
    assert score is not None
    stored = score.model_dump(include={"kl_nats", "agreement_percent", "sqnr_db", "output_mse", "images"})
    assert json.loads(process.stdout)[0] == stored
    assert process.stderr == ""


@pytest.mark.usefixtures("_traced_once")
def test_a_reconstructed_recipe_needs_its_calibration_images_for_its_own_score_alone(
    reconstructed: Path, run: Path
) -> None:
    recipe = Recipe.load(reconstructed / "recipe.json")
    assert recipe.calibration is not None
    moved = recipe.model_copy(update={"calibration": recipe.calibration.model_copy(update={"data": "absent/images"})})
    assert "absent/images" in refusal(moved, reconstructed)
    photos = str(run.parent / "photos")
    found = evaluate_recipe(moved.located(reconstructed), photos)
    assert found == evaluate_recipe(recipe.located(reconstructed), photos)
    assert found.accuracy is not None
    alone = recipe.model_copy(update={"calibration": None})
    assert found == evaluate_recipe(alone.located(reconstructed), photos)
    assert "--calib-data" in refusal(alone, reconstructed)


@pytest.mark.usefixtures("_traced_once")
def test_reconstructed_weights_that_are_refused(reconstructed: Path, tmp_path: Path) -> None:
    recipe, name = Recipe.load(reconstructed / "recipe.json"), "recipe.safetensors"
    assert recipe.reconstruction is not None
    assert f"cannot read '{tmp_path / name}'" in refusal(recipe, tmp_path)
    content = (reconstructed / name).read_bytes()
    for cut in (0, 100, len(content) - 1):
        (tmp_path / name).write_bytes(content[:cut])
        assert "does not hold reconstructed weights" in refusal(recipe, tmp_path)
    (tmp_path / name).write_bytes(content)
    other = recipe.reconstruction.model_copy(update={"sha256": "ab" * 32})
    message = refusal(recipe.model_copy(update={"reconstruction": other}), tmp_path)
    assert f"'{tmp_path / name}' is not the recipe's" in message
    assert "not abababababab" in message
    sites = recipe.sites | {"head": {"weight": recipe.sites["head"]["weight"]}}
    assert "the recipe's sites are not those" in refusal(recipe.model_copy(update={"sites": sites}), tmp_path)
    message = refusal(recipe.model_copy(update={"reparameterized": {}}), tmp_path)
    assert "LayerNorms" in message
    assert recipe.centred
    message = refusal(recipe.model_copy(update={"centred": ()}), tmp_path)
    assert "has no centres for the recipe's keys" in message
    message = refusal(recipe.model_copy(update={"rotated": recipe.rotated | {"blocks.0.attn.qk": 1}}), tmp_path)
    assert "the recipe's rotations are not those" in message
    message = refusal(recipe.model_copy(update={"rotated": {"blocks.0.attn.qkk": 0}}), tmp_path)
    assert "the recipe's rotations do not fit the model: the model has no channels 'blocks.0.attn.qkk'" in message
    assert "Did you mean 'blocks.0.attn.qk'?" in message


@pytest.mark.usefixtures("_traced_once")
def test_reconstructed_weights_of_another_model_do_not_fit(reconstructed: Path, tmp_path: Path) -> None:
    """Tensors of another shape, under the right names."""
    from safetensors import safe_open
    from safetensors.torch import save_file

    from autoq.files import sha256_hex

    recipe = Recipe.load(reconstructed / "recipe.json")
    assert recipe.reconstruction is not None
    with safe_open(reconstructed / "recipe.safetensors", "pt") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        metadata = file.metadata()
    codes = next(name for name in tensors if name.endswith(".codes"))
    for name in ("blocks.0.norm1.ratio", "head:weight.scale", codes):
        path = tmp_path / "recipe.safetensors"
        save_file(tensors | {name: torch.ones(3, dtype=tensors[name].dtype)}, path, metadata)
        sha256 = sha256_hex([path.read_bytes()])
        reference = recipe.reconstruction.model_copy(update={"sha256": sha256})
        assert str(path) in refusal(recipe.model_copy(update={"reconstruction": reference}), tmp_path), name
