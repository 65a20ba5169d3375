"""Hadamard quantizers: uniform ones of the transformed values, by every observer."""

from __future__ import annotations

import pytest
import torch

from autoq.calibration import OBSERVERS, Bank, CalibrationSettings, solve
from autoq.calibration.fpcs.settings import FpcsSettings
from autoq.errors import CalibrationError, RecipeError
from autoq.graph.insert import FixedTensor, QuantizedModel
from autoq.quantizers import HadamardQuantizer
from tests.calibration.samples import SHAPE, block_model, config, draw, images, operand, sample_of, weight_operand
from tests.quantizers.test_hadamard import dense

BLOCK = 8


@pytest.fixture(scope="module")
def model() -> QuantizedModel:
    return block_model()


@pytest.mark.parametrize("observer", [name for name, each in OBSERVERS.items() if not each.by_layer_output])
@pytest.mark.parametrize("kind", ["gelu", "outliers"])
@pytest.mark.parametrize("bits", [1, 4])
def test_is_the_uniform_quantizer_of_the_transformed_values(observer: str, kind: str, bits: int) -> None:
    settings = CalibrationSettings(observer=observer)
    described, values = operand(SHAPE, summed=True), draw(kind)
    turned = torch.from_numpy(values.numpy() @ dense(SHAPE[-1], BLOCK)).float()
    found = solve(described, config("hadamard", bits, hadamard_block=BLOCK), sample_of(described, values), settings)
    # Not the observer's own bounds of all images, which are of values before the transform.
    expected = solve(described, config("uniform", bits), sample_of(described, turned), settings)
    assert isinstance(found, HadamardQuantizer)
    for name, value in expected.qparams().items():
        torch.testing.assert_close(found.qparams()[name], value, rtol=1e-4, atol=1e-6)
    error, same = ((found(values) - values).square().sum(), (expected(turned) - turned).square().sum())
    torch.testing.assert_close(error, same, rtol=2e-2, atol=1e-5)


@pytest.mark.parametrize("granularity", ["tensor", "channel", "group"])
def test_weights_of_every_granularity(granularity: str) -> None:
    described = weight_operand((6, 24), summed=True)
    weight = torch.randn(6, 24, generator=torch.Generator().manual_seed(0))
    chosen = {"granularity": granularity, "groups": 3 if granularity == "group" else 1}
    found = solve(described, config("hadamard", 3, hadamard_block=BLOCK, **chosen), weight, CalibrationSettings())
    turned = torch.from_numpy(weight.numpy() @ dense(24, BLOCK)).float()
    expected = solve(described, config("uniform", 3, **chosen), turned, CalibrationSettings())
    torch.testing.assert_close(found.qparams()["scale"], expected.qparams()["scale"], rtol=1e-4, atol=1e-7)


def test_it_loses_less_than_uniform_where_there_are_outliers() -> None:
    described, values = operand(SHAPE, summed=True), draw("outliers")
    sample, settings = sample_of(described, values), CalibrationSettings()
    plain, turned = (
        solve(described, config(scheme, 4, **fields), sample, settings)
        for scheme, fields in (("uniform", {}), ("hadamard", {"hadamard_block": BLOCK}))
    )
    plain_error, turned_error = ((each(values) - values).square().mean() for each in (plain, turned))
    assert turned_error < 0.7 * plain_error


def test_operands_that_cannot_be_transformed_are_refused() -> None:
    described, values = operand(SHAPE), draw("normal")
    with pytest.raises(CalibrationError, match="hadamard"):
        solve(described, config("hadamard", 4, hadamard_block=8), sample_of(described, values), CalibrationSettings())


@pytest.mark.parametrize("observer", OBSERVERS)
def test_a_bank_applies_recipes_in_one_basis_only(model: QuantizedModel, observer: str) -> None:
    bank = Bank(model, images(8), CalibrationSettings(observer=observer, fpcs=FpcsSettings(rounds=1)), {})
    activation = config("hadamard", 8, hadamard_block=BLOCK)
    weight = config("hadamard", 8, hadamard_block=BLOCK, granularity="channel")
    (full,) = model.run(images(4, seed=1))
    bank.apply_({"fc2": {"input": activation, "weight": weight}})
    held = model.slots["fc2", "weight"].quantizer
    assert isinstance(held, FixedTensor)
    original = model.traced.weight("fc2", "weight")
    assert 0 < (held.value - original).abs().max() < 0.02 * original.abs().max()
    (found,) = model.run(images(4, seed=1))
    assert isinstance(full, torch.Tensor)
    assert isinstance(found, torch.Tensor)
    assert 0 < (found - full).abs().max() < 0.05 * full.abs().max()
    with pytest.raises(RecipeError, match="the operands of fc2 are quantized in different bases"):
        bank.apply_({"fc2": {"input": activation, "weight": config("uniform", 8, granularity="channel")}})
    model.remove_()


def test_codes_meet_in_integer_arithmetic(model: QuantizedModel) -> None:
    """Codes of the input times codes of the weight, scaled, are the products of the dequantized operands."""
    bank = Bank(model, images(8), CalibrationSettings(), {})
    given = bank.quantizer("fc2", "input", config("hadamard", 4, hadamard_block=BLOCK))
    held = bank.quantizer("fc2", "weight", config("hadamard", 4, hadamard_block=BLOCK, granularity="channel"))
    x = torch.randn(2, 6, 16, generator=torch.Generator().manual_seed(0))
    weight = model.traced.weight("fc2", "weight")
    grids = [quantizer.code_grid() for quantizer in (given, held)]
    assert grids[0] is not None
    assert grids[1] is not None
    x_codes, w_codes = given.quantize(x) - grids[0][1].int(), held.quantize(weight) - grids[1][1].int()
    product = (x_codes.unsqueeze(-2) * w_codes).sum(-1) * grids[0][0] * grids[1][0].flatten()
    torch.testing.assert_close(product, given(x) @ held(weight).t(), rtol=1e-4, atol=1e-4)


def test_blocks_are_those_that_divide_the_channels() -> None:
    described, values = operand(SHAPE, summed=True), draw("gelu")
    sample = sample_of(described, values)

    settings = CalibrationSettings()
    found = [solve(described, config("hadamard", 4, hadamard_block=block), sample, settings) for block in (2, 8, 64)]
    assert torch.equal(found[1].qparams()["scale"], found[2].qparams()["scale"])
    assert not torch.equal(found[0].qparams()["scale"], found[1].qparams()["scale"])


@pytest.mark.parametrize("observer", ["mse", "fpcs"])
def test_weights_in_another_basis_are_rounded_with_second_order_information(
    model: QuantizedModel, observer: str
) -> None:
    settings = CalibrationSettings(observer=observer, second_order=True, fpcs=FpcsSettings(rounds=0))
    bank = Bank(model, images(16), settings, {})
    chosen = config("hadamard", 3, hadamard_block=BLOCK, granularity="channel")
    codes, quantizer = bank.codes("fc2", "weight", chosen), bank.quantizer("fc2", "weight", chosen)
    assert codes is not None
    weight = model.traced.weight("fc2", "weight")
    assert 0 < (codes != quantizer.quantize(weight)).float().mean() < 0.7
    held = bank.module("fc2", "weight", chosen)
    assert isinstance(held, FixedTensor)
    torch.testing.assert_close(held.value, quantizer.dequantize(codes))
