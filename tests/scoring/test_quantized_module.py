"""A recipe as a module: what it predicts, holds, saves and loads."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor

from autoq.calibration.transforms.integer_operations import integer_operations
from autoq.graph.insert import QuantizedModel
from autoq.quantizers import quantizer_class
from autoq.recipe import ModelReference, OperandConfig, Recipe
from autoq.scoring.quantized_module import QuantizedModule, QuantizedWeight
from autoq.scoring.solved_operands import SolvedOperands
from tests.contracts.quantizers import LINEAR_WEIGHT
from tests.reconstruction.small_model import A6, W2, calibrated, images, sites_of, tiny_model

LEARNED = ("blocks.0.fc1", "weight")


@pytest.fixture(scope="module")
def model() -> QuantizedModel:
    return tiny_model()


@pytest.fixture(scope="module")
def operands(model: QuantizedModel) -> SolvedOperands:
    """One weight's rounding was learned: its codes are not those of rounding to nearest."""
    start = calibrated(model, sites_of(model, W2, A6), images(8))
    codes = (start.quantizers[LEARNED].quantize(model.traced.weight(*LEARNED)) + 1).clamp(max=3)
    return SolvedOperands(start.quantizers, {LEARNED: codes})


def module_of(model: QuantizedModel, operands: SolvedOperands) -> QuantizedModule:
    recipe = Recipe(model=ModelReference(name="tiny", weights_sha256="0" * 64), sites=operands.sites)
    return QuantizedModule(model.traced, operands, recipe)


def by_slots(model: QuantizedModel, operands: SolvedOperands, x: Tensor) -> Tensor:
    """The same recipe in the traced model's slots."""
    operands.apply_(model)
    with torch.no_grad():
        (output,) = model.run(x)
    model.remove_()
    assert isinstance(output, Tensor)
    return output


@torch.no_grad()
def test_it_predicts_what_the_recipe_does_in_the_models_slots(model: QuantizedModel, operands: SolvedOperands) -> None:
    x = images(5, seed=1)
    full = model.traced.graph_module(x)
    quantized = module_of(model, operands)(x)
    torch.testing.assert_close(quantized, by_slots(model, operands, x), rtol=1e-5, atol=1e-5)
    assert not torch.allclose(quantized, full, atol=1e-2)
    assert torch.equal(model.traced.graph_module(x), full)


@torch.no_grad()
def test_integer_operations_take_the_place_of_the_originals(model: QuantizedModel) -> None:
    sites = sites_of(model, W2, A6)
    for site in model.traced.sites:
        for operand in site.operands:
            if operand.producer == "softmax":
                sites[site.name][operand.name] = OperandConfig(scheme="log_int_softmax", bits=4)
            if site.op == "softmax":
                sites[site.name] = {operand.name: OperandConfig(scheme="uniform", bits=8)}
    operands = calibrated(model, sites, images(8))
    assert integer_operations(model.traced, sites, lambda site, operand, _: operands.quantizers[site, operand])
    x = images(5, seed=1)
    torch.testing.assert_close(module_of(model, operands)(x), by_slots(model, operands, x), rtol=1e-5, atol=1e-5)


def test_weights_are_codes_and_nothing_else(model: QuantizedModel, operands: SolvedOperands) -> None:
    quantized = module_of(model, operands)
    weights = {(site.name, each.name) for site, each in model.traced.operands() if each.is_weight and site.macs}
    assert set(quantized.codes) == weights
    assert set(quantized.quantizers) == set(operands.quantizers)
    assert torch.equal(quantized.codes[LEARNED], operands.codes[LEARNED].to(torch.uint8))
    for key in weights - {LEARNED}:
        assert torch.equal(quantized.codes[key].int(), operands.quantizers[key].quantize(model.traced.weight(*key)))
    state = quantized.state_dict()
    shapes = [tuple(model.traced.weight(*key).shape) for key in weights]
    floats = [tuple(value.shape) for value in state.values() if value.is_floating_point() and value.ndim > 1]
    assert not set(shapes) & set(floats)


def test_nothing_is_shared_with_the_original(model: QuantizedModel, operands: SolvedOperands) -> None:
    quantized = module_of(model, operands)
    mine = {value.data_ptr() for value in model.traced.graph_module.state_dict().values()}
    mine |= {value.data_ptr() for each in operands.quantizers.values() for value in each.qparams().values()}
    mine |= {codes.data_ptr() for codes in operands.codes.values()}
    assert mine.isdisjoint(value.data_ptr() for value in quantized.state_dict().values())


@torch.no_grad()
def test_a_loaded_state_brings_codes_and_scales(model: QuantizedModel, operands: SolvedOperands) -> None:
    first, x = module_of(model, operands), images(3)
    other = module_of(model, SolvedOperands(operands.quantizers))  # rounded to nearest throughout
    assert not torch.equal(first(x), other(x))
    other.load_state_dict(first.state_dict())
    assert torch.equal(first(x), other(x))
    assert torch.equal(copy.deepcopy(first)(x), first(x))


@pytest.mark.parametrize(
    ("config", "dtype"),
    [
        (OperandConfig(scheme="uniform", bits=8), torch.uint8),
        (OperandConfig(scheme="uniform", bits=9), torch.int32),
        (OperandConfig(scheme="log2", bits=8, overflow="extra_zero"), torch.int32),
    ],
)
def test_codes_take_a_byte_where_they_fit(config: OperandConfig, dtype: torch.dtype) -> None:
    one = torch.ones(1, 1)
    quantizer = quantizer_class(config.scheme).from_range(config, LINEAR_WEIGHT, -one, one)
    weight = torch.linspace(-1, 1, 48).reshape(6, 8)
    held = QuantizedWeight(quantizer, quantizer.quantize(weight), torch.float32)
    assert held.codes.dtype == dtype
    assert torch.equal(held(), quantizer(weight))
    assert set(held.state_dict()) == {"codes", *(f"quantizer.{name}" for name in quantizer.qparam_names)}


def test_it_prints_what_it_is(model: QuantizedModel, operands: SolvedOperands) -> None:
    assert module_of(model, operands).extra_repr() == f"tiny, {len(operands.quantizers)} operands quantized"


@torch.no_grad()
def test_inputs_are_transformed_and_weights_were(model: QuantizedModel) -> None:
    sites = sites_of(model, W2, A6)
    transform = {"scheme": "hadamard", "hadamard_block": 16}
    sites["blocks.1.fc2"] = {
        name: config.model_copy(update=transform) for name, config in sites["blocks.1.fc2"].items()
    }
    operands = calibrated(model, sites, images(8))
    quantized, x = module_of(model, operands), images(5, seed=1)
    torch.testing.assert_close(quantized(x), by_slots(model, operands, x), rtol=1e-5, atol=1e-5)
    restored = module_of(model, SolvedOperands(operands.quantizers))
    restored.load_state_dict(quantized.state_dict())
    assert torch.equal(restored(x), quantized(x))
    program = torch.export.export(quantized, (x,), dynamic_shapes={"x": {0: torch.export.Dim.DYNAMIC}})
    torch.testing.assert_close(program.module()(x[:3]), quantized(x[:3]), rtol=1e-6, atol=1e-6)
