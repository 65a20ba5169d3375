"""Codes of weights by the error of their layer's output: never worse than rounding to nearest, row by row."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from autoq.calibration.convolutions import TransposedConvolution
from autoq.calibration.second_order.weights import LayerRounding, is_rounded
from autoq.calibration.solvers import solve
from autoq.quantizers import BaseQuantizer, OperandLayout, create_quantizer
from autoq.recipe import OperandConfig
from tests.calibration.samples import SETTINGS, weight_operand
from tests.quantizers.test_hadamard import dense

GRANULARITIES = [
    {"granularity": "tensor"},
    {"granularity": "channel"},
    {"granularity": "channel", "symmetric": True},
    {"granularity": "group", "groups": 3},
]


def gram_of(channels: int, tokens: int = 200, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(tokens, channels, generator=generator) @ torch.randn(channels, channels, generator=generator)
    return x.T @ x


def weight_of(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(7))


def quantizer_of(weight: Tensor, bits: int, **fields: object) -> BaseQuantizer:
    config = OperandConfig.model_validate({"scheme": "uniform", "bits": bits} | fields)
    return solve(weight_operand(tuple(weight.shape)), config, weight, SETTINGS)


def hadamard_of(weight: Tensor, bits: int, **fields: object) -> BaseQuantizer:
    config = OperandConfig.model_validate({"scheme": "hadamard", "bits": bits, "hadamard_block": 4} | fields)
    return solve(weight_operand(tuple(weight.shape), summed=True), config, weight, SETTINGS)


def errors(weight: Tensor, value: Tensor, gram: Tensor) -> Tensor:
    rows = (value - weight).flatten(1).double()
    return ((rows @ gram.double()) * rows).sum(1)


@pytest.mark.parametrize("fields", GRANULARITIES, ids=lambda fields: "-".join(map(str, fields.values())))
@pytest.mark.parametrize("shape", [(6, 24), (5, 4, 3, 2)])
@pytest.mark.parametrize("bits", [1, 2, 3, 4, 5, 8])
def test_nothing_loses_more_than_by_rounding_to_nearest(
    bits: int, shape: tuple[int, ...], fields: dict[str, object]
) -> None:
    """Neither an output channel, nor, where all share a scale, the layer."""
    weight, gram = weight_of(*shape), gram_of(24)
    quantizer = quantizer_of(weight, bits, **fields)
    rounded = LayerRounding(weight, gram).round(quantizer)
    assert rounded is not None
    assert (rounded.codes.dtype, rounded.codes.shape) == (torch.uint8, weight.shape)
    assert int(rounded.codes.max()) < 2**bits
    before = errors(weight, quantizer(weight), gram)
    after = errors(weight, rounded.quantizer.dequantize(rounded.codes), gram)
    if fields["granularity"] != "tensor":
        assert (after <= before * (1 + 1e-5)).all()
    assert after.sum() < 0.95 * before.sum()


@pytest.mark.parametrize("fields", GRANULARITIES, ids=lambda fields: "-".join(map(str, fields.values())))
@pytest.mark.parametrize("bits", [2, 4, 6])
def test_a_transposed_convolution_is_rounded_like_one_with_its_axes_exchanged(
    bits: int, fields: dict[str, object]
) -> None:
    weight, gram = weight_of(5, 4, 3, 2), gram_of(24)
    quantizer = quantizer_of(weight, bits, **fields)
    expected = LayerRounding(weight, gram).round(quantizer)
    layout = OperandLayout(4, -3, None, -4, None, 0, -4)
    turned = {name: value.transpose(0, 1) if value.ndim == 4 else value for name, value in quantizer.qparams().items()}
    found = LayerRounding(weight.transpose(0, 1).contiguous(), gram).round(
        create_quantizer(quantizer.config, layout, turned)
    )
    assert expected is not None
    assert found is not None
    assert torch.equal(found.codes, expected.codes.transpose(0, 1))
    assert found.codes.is_contiguous()
    values = [each.quantizer.dequantize(each.codes) for each in (found, expected)]
    torch.testing.assert_close(values[0], values[1].transpose(0, 1))


def test_codes_of_a_transposed_convolution_against_all_there_are() -> None:
    """Between the best of 3^8 codes, by the real layer's output, and the nearest; mostly near the best."""
    weight = weight_of(4, 6, 1, 2)  # (inputs, outputs, kernel)
    x = torch.randn(3, 4, 2, 5, generator=torch.Generator().manual_seed(1))
    x = torch.einsum("nchw,cd->ndhw", x, torch.randn(4, 4, generator=torch.Generator().manual_seed(2)))
    geometry = TransposedConvolution((1, 1), (0, 0), (0, 0), (1, 1))
    layout = OperandLayout(4, -3, None, -4, None, 0, -4)
    vectors = geometry.unfold(x, (1, 2)).flatten(0, 1)
    scale = layout.rows(weight).abs().amax(1).view(1, 6, 1, 1)
    config = OperandConfig(scheme="uniform", bits=5, granularity="channel")
    quantizer = create_quantizer(config, layout, {"scale": scale, "zero_point": torch.full((1, 6, 1, 1), 1.0)})
    rounded = LayerRounding(weight, vectors.T @ vectors).round(quantizer)
    assert rounded is not None
    assert int(rounded.codes.max()) <= 2, "all codes are among those that are tried"

    def losses(value: Tensor) -> Tensor:
        """Of each output channel."""
        return functional.conv_transpose2d(x, value - weight).square().sum((0, 2, 3))

    every = torch.tensor(list(product([-1.0, 0.0, 1.0], repeat=8))).view(-1, 4, 1, 1, 2)
    best = torch.stack([losses(code * scale) for code in every]).amin(0)
    found, nearest = losses(rounded.quantizer.dequantize(rounded.codes)), losses(quantizer(weight))
    assert (best <= found * (1 + 1e-5)).all()
    assert (found <= nearest * (1 + 1e-5)).all()
    assert found.sum() - best.sum() < 0.5 * (nearest.sum() - best.sum())


def test_a_channel_that_would_lose_more_keeps_the_nearest_codes() -> None:
    """With many codes and few channels, that is so for some."""
    weight, gram = weight_of(40, 5), gram_of(5)
    quantizer = quantizer_of(weight, 5, granularity="channel")
    rounded = LayerRounding(weight, gram).round(quantizer)
    assert rounded is not None
    assert rounded.quantizer is quantizer
    before, after = errors(weight, quantizer(weight), gram), errors(weight, quantizer.dequantize(rounded.codes), gram)
    is_nearest = (rounded.codes == quantizer.quantize(weight)).all(1)
    assert 0 < int(is_nearest.sum()) < 40
    assert (after[~is_nearest] < before[~is_nearest]).all()


def test_no_codes_at_all_do_better_than_the_best() -> None:
    """Brute force over all codes of each row, at the scale that was found."""
    bits, channels = 2, 5
    weight, gram = weight_of(8, channels), gram_of(channels)
    rounded = LayerRounding(weight, gram).round(quantizer_of(weight, bits, granularity="tensor"))
    assert rounded is not None
    codes = torch.tensor(list(product(range(2**bits), repeat=channels)))
    every = rounded.quantizer.dequantize(codes)  # (codes, channels)
    best = torch.stack([errors(row.expand_as(every), every, gram).min() for row in weight])
    found = errors(weight, rounded.quantizer.dequantize(rounded.codes), gram)
    assert (found >= best * (1 - 1e-6)).all()
    assert found.sum() < 1.5 * best.sum()


@pytest.mark.parametrize("granularity", ["tensor", "channel", "group"])
@pytest.mark.parametrize("factor", [0.75, 1.4])
def test_a_grid_that_is_much_too_coarse_or_fine_is_found_again(granularity: str, factor: float) -> None:
    """The weight lies on a grid whose scale is another than the one that is given."""
    codes = torch.randint(0, 8, (6, 24), generator=torch.Generator().manual_seed(0)).float()
    weight, gram = 0.1 * (codes - 4), gram_of(24)
    quantizer = quantizer_of(weight, 3, granularity=granularity, symmetric=True, groups=groups_for(granularity))
    scale = torch.full_like(quantizer.qparams()["scale"], 0.1 * factor)
    wrong = create_quantizer(quantizer.config, quantizer.layout, quantizer.qparams() | {"scale": scale})
    rounded = LayerRounding(weight, gram).round(wrong)
    assert rounded is not None
    assert torch.allclose(rounded.quantizer.dequantize(rounded.codes), weight, atol=1e-5)


@pytest.mark.parametrize("shape", [(6, 24), (5, 4, 3, 2)])
@pytest.mark.parametrize("granularity", ["tensor", "channel", "group"])
def test_scales_of_few_bits_are_refined(granularity: str, shape: tuple[int, ...]) -> None:
    """As the least-squares ones for the codes; the codes' values are those of the quantizer that is returned."""
    weight, gram = weight_of(*shape), gram_of(24)
    quantizer = quantizer_of(weight, 2, granularity=granularity, groups=groups_for(granularity))
    rounded = LayerRounding(weight, gram).round(quantizer)
    assert rounded is not None
    assert rounded.quantizer.config == quantizer.config
    before, after = (each.qparams() for each in (quantizer, rounded.quantizer))
    assert torch.equal(before["zero_point"], after["zero_point"])
    assert not torch.isclose(before["scale"], after["scale"]).any()
    assert before["scale"].shape == after["scale"].shape


def test_groups_lose_less_than_whole_channels() -> None:
    """Their scales are found together: each channel's alone would leave them worse than one scale for all."""
    weight, gram = weight_of(6, 24) * torch.tensor([1.0, 3.0]).repeat_interleave(12), gram_of(24)
    whole, divided = (
        LayerRounding(weight, gram).round(quantizer_of(weight, 3, granularity=granularity, groups=groups))
        for granularity, groups in (("channel", 1), ("group", 2))
    )
    assert whole is not None
    assert divided is not None
    losses = [errors(weight, each.quantizer.dequantize(each.codes), gram).sum() for each in (whole, divided)]
    assert losses[1] < 0.8 * losses[0]


def groups_for(granularity: str) -> int:
    return 2 if granularity == "group" else 1


@pytest.mark.parametrize("fields", GRANULARITIES, ids=lambda fields: "-".join(map(str, fields.values())))
@pytest.mark.parametrize("bits", [3, 5])
@pytest.mark.parametrize("shape", [(6, 24), (5, 4, 3, 2)])
def test_a_weight_in_another_basis_is_rounded_as_one_that_was_transformed(
    shape: tuple[int, ...], bits: int, fields: dict[str, object]
) -> None:
    """W B with the Gram matrix of X B, B given by SciPy; the error of the output is that of W with X."""
    weight, gram = weight_of(*shape), gram_of(24)
    quantizer = hadamard_of(weight, bits, **fields)
    rounded = LayerRounding(weight, gram).round(quantizer)
    assert rounded is not None
    after = errors(weight, rounded.quantizer.dequantize(rounded.codes), gram)
    assert after.sum() < 0.95 * errors(weight, quantizer(weight), gram).sum()
    inner = 24 // shape[1]
    basis = torch.from_numpy(np.kron(dense(shape[1], 4), np.eye(inner))).float()  # of unfolded channels
    turned, turned_gram = (weight.flatten(1) @ basis).view(shape), basis.T @ gram @ basis
    uniform = OperandConfig(**quantizer.config.model_dump() | {"scheme": "uniform", "hadamard_block": 1})
    plain = create_quantizer(uniform, quantizer.layout, quantizer.qparams())
    expected = LayerRounding(turned, turned_gram).round(plain)
    assert expected is not None
    assert (rounded.codes == expected.codes).float().mean() > 0.95  # ties fall either way


def test_bases_do_not_meet() -> None:
    """One layer, options in two bases: each is rounded as if it were alone."""
    weight, gram = weight_of(6, 24), gram_of(24)
    options = [quantizer_of(weight, 3, granularity="channel"), hadamard_of(weight, 3, granularity="channel")]
    layer = LayerRounding(weight, gram)
    for quantizer in [*options, *options]:
        together, alone = layer.round(quantizer), LayerRounding(weight, gram).round(quantizer)
        assert together is not None
        assert alone is not None
        assert torch.equal(together.codes, alone.codes)


def test_what_cannot_be_bettered_has_no_codes() -> None:
    weight = weight_of(4, 6)
    gram = torch.diag(torch.rand(6, generator=torch.Generator().manual_seed(1)) + 0.1)  # nothing to take up errors
    assert LayerRounding(weight, gram).round(quantizer_of(weight, 5, granularity="channel")) is None


@pytest.mark.parametrize(
    "config",
    [OperandConfig(scheme="twin_uniform", bits=4), OperandConfig(scheme="uniform", bits=9, granularity="channel")],
    ids=["no equal steps", "wider than a byte"],
)
def test_other_weights_are_rounded_to_nearest(config: OperandConfig) -> None:
    weight, gram = weight_of(4, 6), gram_of(6)
    assert not is_rounded(config)
    assert LayerRounding(weight, gram).round(solve(weight_operand((4, 6)), config, weight, SETTINGS)) is None


def test_the_type_of_the_weight_does_not_matter() -> None:
    weight, gram = weight_of(6, 24).bfloat16(), gram_of(24)
    quantizer = quantizer_of(weight.float(), 3, granularity="channel")
    half, full = (LayerRounding(each, gram).round(quantizer) for each in (weight, weight.float()))
    assert half is not None
    assert full is not None
    assert torch.equal(half.codes, full.codes)


@pytest.mark.parametrize("scheme", ["fp8_e4m3", "mxfp4", "mxint8", "nvfp4"])
def test_floating_point_weights_are_rounded_by_their_layers_too(scheme: str) -> None:
    """Blocks keep their scales, and no output channel loses more than by rounding to nearest."""
    weight, gram = weight_of(6, 40), gram_of(40)
    bits = 4 if scheme.endswith("fp4") else 8
    granularity = "channel" if scheme == "fp8_e4m3" else "tensor"
    config = OperandConfig(scheme=scheme, bits=bits, granularity=granularity)
    quantizer = solve(weight_operand((6, 40), summed=True), config, weight, SETTINGS)
    rounded = LayerRounding(weight, gram).round(quantizer)
    assert rounded is not None
    assert rounded.quantizer is quantizer
    value = quantizer.dequantize(rounded.codes)
    assert torch.equal(quantizer.quantize(value).to(torch.uint8), rounded.codes)
    before, after = errors(weight, quantizer(weight), gram), errors(weight, value, gram)
    assert (after <= before * (1 + 1e-5)).all()
    assert after.sum() < 0.9 * before.sum()
