"""autoq.quantize."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import autoq
from autoq.errors import MethodError, RecipeError
from autoq.models import weights_sha256
from autoq.recipe import ModelReference, OperandConfig, Recipe
from tests.api.models import IMAGES, SETTINGS, DepthLike, make


@pytest.fixture(scope="module")
def result() -> autoq.SearchResult:
    return autoq.search(make(), IMAGES, "w4a4", **{**SETTINGS, "space": "vit_w2-8"})


def test_a_recipe_predicts_as_it_scored(result: autoq.SearchResult) -> None:
    for choice in ("best", result.front.index[0]):
        recipe = result.recipe(choice)
        measured = autoq.evaluate(recipe, model=make(), calib_data=IMAGES)
        assert measured.score is not None
        assert recipe.score is not None
        assert measured.score.kl_nats == recipe.score.kl_nats
        quantized = autoq.quantize(make(), recipe)
        compared = autoq.evaluate(quantized, IMAGES, model=make())
        again = autoq.evaluate(recipe, IMAGES, model=make())
        assert compared.score is not None
        # Full precision is the model itself in one, the rotated model in the other: equal up to rounding.
        assert compared.score.kl_nats == pytest.approx(again.score.kl_nats, rel=1e-3)
        assert compared.score.agreement_percent == again.score.agreement_percent
        assert compared.cost == recipe.cost


def test_methods_need_bits_and_images() -> None:
    quantized = autoq.quantize(make(), "igq-vit", IMAGES, bits="w6a6", method_options={"groups": 4}, calib_images=8)
    assert quantized.recipe.method == "igq-vit w6a6"
    assert any(quantizer.config.groups == 4 for quantizer in quantized.quantizers.values())
    assert quantized(IMAGES[:3])["logits"].shape == (3, 5)
    with pytest.raises(MethodError, match="needs bits"):
        autoq.quantize(make(), "rtn", IMAGES)
    with pytest.raises(MethodError, match="needs images"):
        autoq.quantize(make(), "rtn", bits="w4a4")
    with pytest.raises(MethodError, match="rtn"):
        autoq.quantize(make(), "rnt", IMAGES, bits="w4a4")
    with pytest.raises(TypeError, match="recipe is a Recipe"):
        autoq.quantize(make(), 3)  # type: ignore[arg-type]


def test_bits_are_for_methods(result: autoq.SearchResult) -> None:
    with pytest.raises(MethodError, match="a recipe has its own"):
        autoq.quantize(make(), result.best, bits="w4a4")


def test_a_recipe_of_another_model_is_refused(result: autoq.SearchResult) -> None:
    other = make()
    with torch.no_grad():
        other.get_parameter("head.bias").add_(1)
    with pytest.raises(RecipeError, match="made for the weights"):
        autoq.quantize(other, result.best)
    with pytest.raises(RecipeError, match=r"has no site|made for the weights"):
        autoq.quantize(make(DepthLike), result.best)


def test_a_recipe_without_its_bank_is_calibrated_again(result: autoq.SearchResult, tmp_path: Path) -> None:
    path = tmp_path / "best.json"
    searched = result.recipe("best", version="searched")
    searched.save(path)
    loaded = autoq.load_recipe(path)
    with pytest.raises(FileNotFoundError, match="images were given in Python"):
        autoq.quantize(make(), loaded)
    # The same subset of the same images: the bank comes out the same.
    expected = autoq.quantize(make(), searched)(IMAGES)["logits"]
    assert torch.equal(autoq.quantize(make(), loaded, IMAGES)(IMAGES)["logits"], expected)


def test_it_is_a_normal_module(result: autoq.SearchResult) -> None:
    model = make()
    quantized = autoq.quantize(model, result.best)
    with torch.no_grad():
        expected = quantized(IMAGES)["logits"]
    assert isinstance(quantized, nn.Module)
    assert not quantized.training
    buffer = io.BytesIO()
    torch.save(quantized, buffer)
    buffer.seek(0)
    loaded = torch.load(buffer, weights_only=False)
    assert torch.equal(loaded(IMAGES)["logits"], expected)
    assert loaded.recipe == quantized.recipe
    blank = autoq.quantize(model, result.best)
    with torch.no_grad():
        for value in blank.state_dict().values():
            value.copy_(torch.ones_like(value))
    blank.load_state_dict(quantized.state_dict())
    assert torch.equal(blank(IMAGES)["logits"], expected)
    assert torch.equal(quantized(x=IMAGES)["logits"], expected), "by the original's own name for its input"
    for inputs, named in (
        ((), {}),
        ((IMAGES,), {"mask": IMAGES}),
        ((IMAGES,), {"x": IMAGES}),
        ((), {"pixels": IMAGES}),
    ):
        with pytest.raises(TypeError, match="takes one tensor, 'x', not"):
            quantized(*inputs, **named)
    dynamic = ({0: torch.export.Dim("batch")},)
    program = torch.export.export(quantized, (IMAGES[:4],), dynamic_shapes=dynamic)
    assert torch.equal(program.module()(IMAGES)["logits"], expected)


def test_a_method_on_a_map() -> None:
    quantized = autoq.quantize(make(DepthLike), "rtn", IMAGES, bits="w8a8", task="dense")
    assert quantized.recipe.task is not None
    assert quantized.recipe.task["name"] == "dense"
    with torch.no_grad():
        expected = make(DepthLike)(IMAGES)["depth"]
        assert torch.allclose(quantized(IMAGES)["depth"], expected, atol=0.1 * float(expected.abs().max()))


class Twice(nn.Module):
    """A layer that is called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = self.layer(torch.relu(self.layer(x)))
        return made


def test_an_exported_layer_that_is_called_twice_keeps_both_quantizers_of_its_input() -> None:
    """torch takes what is called ``x@2`` for a copy of ``x``."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module, x = Twice().eval(), torch.randn(8, 5, 4)
    reference = ModelReference(name="memory:Twice", weights_sha256=weights_sha256(module), input_size=(5, 4))
    grouped = {"input": OperandConfig(scheme="instance_groups", bits=4, groups=2)}
    plain = {"input": OperandConfig(scheme="uniform", bits=4)}
    recipe = Recipe(model=reference, sites={"layer": grouped, "layer@2": plain})
    quantized = autoq.quantize(module, recipe, x, calib_images=8)
    with torch.no_grad():
        assert torch.equal(torch.export.export(quantized, (x,)).module()(x), quantized(x))
        assert not torch.equal(quantized(x), module(x))
