"""A model traced and ready: devices, other models' recipes, rescaled LayerNorms, its bank."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from autoq.calibration.fpcs.settings import FpcsSettings
from autoq.calibration.settings import CalibrationSettings
from autoq.errors import ModelError, RecipeError
from autoq.models import describe_module
from autoq.recipe import OperandConfig, Recipe
from autoq.runs.images import CalibrationImages
from autoq.runs.opening import calibration_reference
from autoq.runs.session import Session
from autoq.tasks import DenseTask, task_to_record
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


def test_tasks_learn_what_they_need_once() -> None:
    session = small_session()
    images = session.calibration_images("digits", 8, 0)

    def not_needed() -> CalibrationImages:
        raise AssertionError("classification has nothing to know")

    assert session.fitted(not_needed).task == session.task
    dense = replace(session, task=DenseTask()).fitted(lambda: images)
    assert dense.task != DenseTask()
    assert dense.fitted(not_needed).task == dense.task


def test_banks_weigh_errors_by_the_task_of_their_session() -> None:
    images = small_session().calibration_images("digits", 8, 0)
    settings = CalibrationSettings(observer="fpcs", fpcs=FpcsSettings(output_weights="gradients"))
    for task in (small_session().task, DenseTask()):
        session = replace(small_session(), task=task).fitted(lambda: images)
        bank = session.bank(lambda: images, images.sha256, settings)
        assert bank.description["task"] == task_to_record(session.task)


def test_how_a_recipe_names_its_calibration() -> None:
    session = small_session()
    images = session.calibration_images("digits", 8, 3)
    bank = session.bank(lambda: images, images.sha256, CalibrationSettings(observer="percentile", seed=3))
    reference = calibration_reference(images, bank)
    assert (reference.data, reference.images, reference.seed, reference.observer) == ("digits", 8, 3, "percentile")
    assert reference.bank_fingerprint == bank.fingerprint
    assert CalibrationSettings.from_json({"observer": "percentile", "seed": 3, **reference.settings}) == bank.settings
