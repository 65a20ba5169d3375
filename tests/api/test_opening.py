"""From a model as a user has it to one that is traced."""

from __future__ import annotations

import pytest
import torch
from PIL import Image
from torch import Tensor

from autoq.api.opening import ModelOptions, example_of, open_model, shown
from autoq.data import GivenImages
from autoq.errors import ArgumentTypeError, ModelError
from autoq.events import PhaseStarted
from autoq.recipe import ModelReference, Recipe
from tests.api.models import IMAGES, LABELS, make


def to_tensor(image: Image.Image) -> Tensor:
    return torch.full((3, 16, 16), float(image.size[0]))


def test_the_input_is_that_of_the_example_or_of_the_images() -> None:
    for options, images in (
        (ModelOptions(example_input=IMAGES[:1]), None),
        (ModelOptions(), IMAGES),
        (ModelOptions(), [(IMAGES[:2], LABELS[:2])]),
        (ModelOptions(preprocess=to_tensor), "digits"),
    ):
        session = open_model(make(), options, images)
        assert session.loaded.input_size == (3, 16, 16)
        assert session.loaded.name == "memory:HandWritten"
    with pytest.raises(ModelError, match="nobody knows how HandWritten is fed"):
        open_model(make(), ModelOptions(), "digits")


def test_the_module_is_not_changed_and_not_copied() -> None:
    model = make()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    session = open_model(model, ModelOptions(), IMAGES)
    assert session.loaded.module is model
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    with pytest.raises(ModelError, match="in training mode"):
        open_model(make().train(), ModelOptions(), IMAGES)


def test_a_named_model_can_be_fed_otherwise() -> None:
    names = [f"digit {index}" for index in range(10)]
    options = ModelOptions(preprocess=lambda _: torch.ones(1, 8, 8), label_names=names)
    loaded = open_model("vit_digits", options).loaded
    assert loaded.transform is not None
    assert torch.equal(loaded.transform(Image.new("L", (8, 8))), torch.ones(1, 8, 8))
    assert loaded.label_names == tuple(names)
    plain = open_model("vit_digits", ModelOptions()).loaded
    assert plain.label_names == tuple("0123456789")
    assert plain.weights_sha256 == loaded.weights_sha256


def test_what_is_no_model() -> None:
    with pytest.raises(ArgumentTypeError, match="not int"):
        open_model(3, ModelOptions())  # type: ignore[arg-type]
    with pytest.raises(ModelError, match="'tpu9'"):
        open_model(make(), ModelOptions(device="tpu9"), IMAGES)


def test_a_recipe_says_how_its_model_was_fed() -> None:
    recipe = Recipe(model=ModelReference(name="memory:M", weights_sha256="0", input_size=(3, 16, 16)), sites={})
    example = ModelOptions(device="cpu").for_recipe(recipe).example_input
    assert example is not None
    assert example.shape == (1, 3, 16, 16)
    for own in (ModelOptions(example_input=IMAGES), ModelOptions(preprocess=to_tensor)):
        assert own.for_recipe(recipe) is own
    named = recipe.model_copy(update={"model": ModelReference(name="vit_digits", weights_sha256="0")})
    assert ModelOptions().for_recipe(named) == ModelOptions()


def test_the_example_is_one_image() -> None:
    for images in (IMAGES, (IMAGES, LABELS), GivenImages(IMAGES)):
        example = example_of(images)
        assert example is not None
        assert torch.equal(example, IMAGES[:1])
    assert example_of(None) is None
    assert example_of("digits") is None


def test_progress_is_shown_or_told(capsys: pytest.CaptureFixture[str]) -> None:
    seen: list[object] = []
    event = PhaseStarted("search", 3)
    for progress in (seen.append, False, True):
        with shown(progress) as callback:
            callback(event)
    assert seen == [event]
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("evaluating recipes") == 1
