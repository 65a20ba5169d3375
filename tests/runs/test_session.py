"""A model traced and ready: devices, other models' recipes, rescaled LayerNorms, its bank."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from autoq.calibration.settings import CalibrationSettings
from autoq.errors import ModelError, RecipeError
from autoq.models import describe_module
from autoq.recipe import OperandConfig, Recipe
from autoq.runs.images import CalibrationImages
from autoq.runs.opening import calibration_reference
from autoq.runs.session import Session
from autoq.tasks import DenseTask
from tests.api.models import IMAGES, make
from tests.runs.small_run import small_session

SETTINGS = CalibrationSettings(observer="min_max")


def test_the_model_and_its_graph_are_one() -> None:
    session = Session.open("vit_digits", device="cpu")
    assert session.device == torch.device("cpu")
    images = session.calibration_images("digits", 4, 0).tensor
    with torch.inference_mode():
        expected = session.loaded.module(images)
        assert torch.allclose(session.model.run(images)[0], expected, atol=1e-5)
    assert session.num_classes == expected.shape[1] == 10


def test_an_object_is_left_as_it_is() -> None:
    model = make()
    loaded = describe_module(model, example_input=IMAGES[:1])
    session = Session.of(loaded)
    assert session.loaded.module is model
    assert session.num_classes == 5, "the length of its output, as it does not say"
    reference = session.reference
    assert (reference.name, reference.input_size) == ("memory:HandWritten", (3, 16, 16))
    assert reference.weights_sha256 == loaded.weights_sha256
    assert small_session().reference.input_size is None, "a name that loads it again says that"


@pytest.mark.parametrize("device", ["tpu9", "cuda:99", "meta", ""])
def test_devices_that_do_not_exist(device: str) -> None:
    with pytest.raises(ModelError, match=f"cannot use device '{device}'"):
        Session.open("vit_digits", device=device)


def test_recipes_of_other_models_are_refused() -> None:
    session = small_session()
    config = OperandConfig(scheme="uniform", bits=4)
    recipe = Recipe(model=session.reference, sites={"head": {"weight": config}})
    session.check(recipe)
    theirs = recipe.model.model_copy(update={"name": "theirs", "weights_sha256": "ab" * 32})
    with pytest.raises(RecipeError, match="made for the weights abababababab of 'theirs'"):
        session.check(recipe.model_copy(update={"model": theirs}))
    for sites, message in (({"haed": {"weight": config}}, "haed"), ({"head": {"wieght": config}}, "wieght")):
        with pytest.raises(RecipeError, match=message):
            session.check(recipe.model_copy(update={"sites": sites}))


def test_reparameterized_layer_norms_change_the_graph_alone() -> None:
    session = small_session()
    images = session.calibration_images("digits", 8, 0)
    assert session.rescaled({}, lambda: images, CalibrationSettings()) is session
    norms = {"blocks.0.norm1": 4}
    seen: list[int] = []
    rescaled = session.rescaled(norms, lambda: images, CalibrationSettings(), progress=seen.append)
    assert sum(seen) == 8
    assert (rescaled.reparameterized, set(rescaled.folded.factors)) == (norms, set(norms))
    site = "blocks.0.attn.qkv"
    assert not torch.equal(rescaled.traced.weight(site), session.traced.weight(site))
    with torch.inference_mode():
        assert torch.allclose(rescaled.model.run(images.tensor)[0], session.model.run(images.tensor)[0], atol=1e-4)
    again = session.rescaled_by(norms, rescaled.folded.factors)
    assert torch.equal(again.traced.weight(site), rescaled.traced.weight(site))
    assert session.bank(lambda: images, images.sha256, SETTINGS).fingerprint != (
        rescaled.bank(lambda: images, images.sha256, SETTINGS).fingerprint
    )


def test_rotations_change_the_graph_alone(tmp_path: Path) -> None:
    session = small_session()
    images = session.calibration_images("digits", 8, 0)
    assert session.rotated_by({}) is session
    seen: list[int] = []
    rotated = session.rotated_for(lambda: images, progress=seen.append)
    assert sum(seen) == 8
    assert "patch_embed.proj" in rotated.rotated
    site = "blocks.0.attn.qkv"
    assert not torch.equal(rotated.traced.weight(site), session.traced.weight(site))
    with torch.inference_mode():
        assert torch.allclose(rotated.model.run(images.tensor)[0], session.model.run(images.tensor)[0], atol=1e-4)
    assert torch.equal(session.rotated_by(rotated.rotated).traced.weight(site), rotated.traced.weight(site))
    banks = [each.bank(lambda: images, images.sha256, SETTINGS) for each in (session, rotated)]
    assert banks[1].description == banks[0].description | {"rotated": rotated.rotated}
    banks[1].solve_all([("head", "input", OperandConfig(scheme="uniform", bits=4))])
    banks[1].save(tmp_path)

    def not_needed() -> CalibrationImages:
        raise AssertionError("the bank names the rotations")

    assert session.rotated_for(not_needed, tmp_path).rotated == rotated.rotated
    both = rotated.rescaled({"blocks.0.norm1": 4}, lambda: images, CalibrationSettings())
    assert both.rotated == rotated.rotated
    with torch.inference_mode():
        assert torch.allclose(both.model.run(images.tensor)[0], session.model.run(images.tensor)[0], atol=1e-4)


def test_factors_are_read_from_a_bank(tmp_path: Path) -> None:
    session = small_session()
    images = session.calibration_images("digits", 8, 0)
    rescaled = session.rescaled({"blocks.0.norm1": 4}, lambda: images, CalibrationSettings())
    bank = rescaled.bank(lambda: images, images.sha256, SETTINGS)
    bank.solve_all([("head", "input", OperandConfig(scheme="uniform", bits=4))])
    bank.save(tmp_path)

    def not_needed() -> CalibrationImages:
        raise AssertionError("the bank has the factors")

    read = session.rescaled({"blocks.0.norm1": 4}, not_needed, CalibrationSettings(), tmp_path)
    assert torch.equal(read.traced.weight("blocks.0.attn.qkv"), rescaled.traced.weight("blocks.0.attn.qkv"))
    other = session.rescaled({"blocks.1.norm1": 4}, lambda: images, CalibrationSettings(), tmp_path)
    assert set(other.folded.factors) == {"blocks.1.norm1"}


def test_tasks_learn_what_they_need_once() -> None:
    session = small_session()
    images = session.calibration_images("digits", 8, 0)

    def not_needed() -> CalibrationImages:
        raise AssertionError("classification has nothing to know")

    assert session.fitted(not_needed).task == session.task
    dense = replace(session, task=DenseTask()).fitted(lambda: images)
    assert dense.task != DenseTask()
    assert dense.fitted(not_needed).task == dense.task


def test_how_a_recipe_names_its_calibration() -> None:
    session = small_session()
    images = session.calibration_images("digits", 8, 3)
    bank = session.bank(lambda: images, images.sha256, CalibrationSettings(observer="percentile", seed=3))
    reference = calibration_reference(images, bank)
    assert (reference.data, reference.images, reference.seed, reference.observer) == ("digits", 8, 3, "percentile")
    assert reference.bank_fingerprint == bank.fingerprint
    assert CalibrationSettings.from_json({"observer": "percentile", "seed": 3, **reference.settings}) == bank.settings
