"""Which nodes run in integers, with which scales, and which recipes cannot."""

from __future__ import annotations

import re

import pytest
import torch

from autoq.calibration import Bank, CalibrationSettings
from autoq.errors import RecipeError
from autoq.graph.insert import QuantizedModel
from autoq.quantizers import IntegerLayerNorm, IntegerSoftmax
from autoq.recipe import OperandConfig, SiteConfig
from tests.calibration.samples import block_model, images, key_of


def config(scheme: str, bits: int = 8, **fields: object) -> OperandConfig:
    return OperandConfig.model_validate({"scheme": scheme, "bits": bits} | fields)


@pytest.fixture(scope="module")
def model() -> QuantizedModel:
    return block_model()


@pytest.fixture
def bank(model: QuantizedModel) -> Bank:
    return Bank(model, images(16), CalibrationSettings(observer="min_max"), {})


@pytest.fixture(scope="module")
def softmax(model: QuantizedModel) -> str:
    return next(site.name for site in model.traced.sites if site.op == "softmax")


def test_layer_norm_rounds_to_the_step_it_feeds(bank: Bank, model: QuantizedModel) -> None:
    sites: dict[str, SiteConfig] = {
        "norm": {"input": config("power_of_two_factor")},
        "qkv": {"input": config("uniform", 4)},
    }
    bank.apply_(sites)
    operation = model.operations["norm"].replacement
    assert isinstance(operation, IntegerLayerNorm)
    step = bank.quantizer("qkv", "input", config("uniform", 4)).scale
    assert isinstance(step, torch.Tensor)
    assert float(operation.output_scale) == float(step)
    seen: list[torch.Tensor] = []
    model.slots["qkv", "input"].register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    model.run(images(4, seed=5))
    multiples = seen[0] / step
    torch.testing.assert_close(multiples, multiples.round(), rtol=0, atol=1e-3)
    bank.apply_({"norm": sites["norm"]})
    unrounded = model.operations["norm"].replacement
    assert isinstance(unrounded, IntegerLayerNorm)
    assert unrounded.output_scale is None
    bank.apply_({})
    assert model.operations["norm"].replacement is None


def test_softmax_gives_powers_of_two(bank: Bank, model: QuantizedModel, softmax: str) -> None:
    site, operand = key_of(model, "softmax")
    bank.apply_({softmax: {"input": config("uniform")}, site: {operand: config("log_int_softmax", 4)}})
    assert isinstance(model.operations[softmax].replacement, IntegerSoftmax)
    seen: list[torch.Tensor] = []
    model.operations[softmax].register_forward_hook(lambda *call: seen.append(call[2]))
    quantizer = model.slots[site, operand].quantizer
    assert quantizer is not None
    quantizer.register_forward_hook(lambda *call: seen.append(call[2]))
    model.run(images(4))
    reciprocals = 1 / seen[0][seen[0] > 0]
    torch.testing.assert_close(reciprocals, reciprocals.round(), rtol=1e-5, atol=0)
    assert set(seen[1].unique().log2().tolist()) <= {-float(code) for code in range(15)} | {float("-inf")}
    model.remove_()


@pytest.mark.parametrize("scores", [None, config("power_of_two_factor")])
def test_log_int_softmax_needs_integers(
    bank: Bank, model: QuantizedModel, softmax: str, scores: OperandConfig | None
) -> None:
    site, operand = key_of(model, "softmax")
    before: SiteConfig = {} if scores is None else {"input": scores}
    with pytest.raises(RecipeError, match=rf"{site}:{operand} has scheme log_int_softmax.*give '{re.escape(softmax)}'"):
        bank.apply_({site: {operand: config("log_int_softmax", 4)}, softmax: before})


def test_schemes_in_the_wrong_place(bank: Bank) -> None:
    with pytest.raises(RecipeError, match="fc1:input does not come from a softmax"):
        bank.apply_({"fc1": {"input": config("log_int_softmax", 4)}})
    with pytest.raises(RecipeError, match="fc1 is no LayerNorm: power_of_two_factor"):
        bank.apply_({"fc1": {"input": config("power_of_two_factor")}})


def test_replacing_what_is_no_such_operation(model: QuantizedModel) -> None:
    with pytest.raises(RecipeError, match="'qkv' is no LayerNorm or softmax"):
        model.replace_({"qkv": torch.nn.Identity()})
