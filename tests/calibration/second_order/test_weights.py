"""Codes of weights by the error of their layer's output: never worse than rounding to nearest, row by row."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import torch
from torch import Tensor

from autoq.calibration.second_order.rounding import InverseFactor
from autoq.calibration.second_order.weights import round_weight
from autoq.calibration.solvers import solve
from autoq.quantizers import BaseQuantizer, create_quantizer
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
@pytest.mark.parametrize("bits", [1, 2, 3, 4, 8])
def test_no_output_channel_loses_more_than_by_rounding_to_nearest(
    bits: int, shape: tuple[int, ...], fields: dict[str, object]
) -> None:
    weight, gram = weight_of(*shape), gram_of(24)
    quantizer = quantizer_of(weight, bits, **fields)
    codes = round_weight(weight, quantizer, gram, InverseFactor.of_gram(gram))
    assert codes is not None
    assert (codes.dtype, codes.shape) == (torch.uint8, weight.shape)
    assert int(codes.max()) < 2**bits
    before = errors(weight, quantizer(weight), gram)
    after = errors(weight, quantizer.dequantize(codes), gram)
    assert (after <= before * (1 + 1e-5)).all()
    assert after.sum() < 0.95 * before.sum()


def test_every_channel_takes_the_better_of_the_two() -> None:
    """Of a row that this rounding makes worse, the nearest codes are kept: with two bits, that is one in five here."""
    weight, gram = weight_of(40, 5), gram_of(5)
    quantizer = quantizer_of(weight, 2, granularity="channel")
    codes = round_weight(weight, quantizer, gram, InverseFactor.of_gram(gram))
    assert codes is not None
    before, after = errors(weight, quantizer(weight), gram), errors(weight, quantizer.dequantize(codes), gram)
    is_nearest = (codes == quantizer.quantize(weight)).all(1)
    assert 0 < int(is_nearest.sum()) < 40
    assert (after[~is_nearest] < before[~is_nearest]).all()


def test_no_codes_at_all_do_better_than_the_best() -> None:
    """Brute force over all codes of each row."""
    bits, channels = 2, 5
    weight, gram = weight_of(8, channels), gram_of(channels)
    quantizer = quantizer_of(weight, bits, granularity="tensor")
    codes = round_weight(weight, quantizer, gram, InverseFactor.of_gram(gram))
    assert codes is not None
    every = quantizer.dequantize(torch.tensor(list(product(range(2**bits), repeat=channels))))  # (codes, channels)
    best = torch.stack([errors(row.expand_as(every), every, gram).min() for row in weight])
    found = errors(weight, quantizer.dequantize(codes), gram)
    assert (found >= best * (1 - 1e-6)).all()
    assert (found <= errors(weight, quantizer(weight), gram) * (1 + 1e-6)).all()


def test_what_cannot_be_bettered_has_no_codes() -> None:
    weight = weight_of(4, 6)
    gram = torch.diag(torch.rand(6, generator=torch.Generator().manual_seed(1)) + 0.1)  # nothing to take up errors
    assert (
        round_weight(weight, quantizer_of(weight, 3, granularity="channel"), gram, InverseFactor.of_gram(gram)) is None
    )


@pytest.mark.parametrize(
    "config",
    [OperandConfig(scheme="twin_uniform", bits=4), OperandConfig(scheme="uniform", bits=9, granularity="channel")],
    ids=["not affine", "wider than a byte"],
)
def test_other_weights_are_rounded_to_nearest(config: OperandConfig) -> None:
    weight, gram = weight_of(4, 6), gram_of(6)
    quantizer = solve(weight_operand((4, 6)), config, weight, SETTINGS)
    assert round_weight(weight, quantizer, gram, InverseFactor.of_gram(gram)) is None


def test_the_type_of_the_weight_does_not_matter() -> None:
    weight, gram = weight_of(6, 24).bfloat16(), gram_of(24)
    quantizer, factor = quantizer_of(weight.float(), 3, granularity="channel"), InverseFactor.of_gram(gram)
    half, full = round_weight(weight, quantizer, gram, factor), round_weight(weight.float(), quantizer, gram, factor)
    assert half is not None
    assert full is not None
    assert torch.equal(half, full)


@pytest.mark.parametrize("fields", GRANULARITIES, ids=lambda fields: "-".join(map(str, fields.values())))
@pytest.mark.parametrize("shape", [(6, 24), (5, 4, 3, 2)])
def test_a_weight_in_another_basis_is_rounded_as_one_that_was_transformed(
    shape: tuple[int, ...], fields: dict[str, object]
) -> None:
    """W B with the Gram matrix of X B, B given by SciPy; the error of the output is that of W with X."""
    weight, gram = weight_of(*shape), gram_of(24)
    quantizer = hadamard_of(weight, 3, **fields)
    factor = InverseFactor.of_gram(gram)
    codes = round_weight(weight, quantizer, gram, factor)
    assert codes is not None
    after, before = (errors(weight, values, gram) for values in (quantizer.dequantize(codes), quantizer(weight)))
    assert (after <= before * (1 + 1e-4)).all()
    assert after.sum() < 0.95 * before.sum()
    inner = 24 // shape[1]
    basis = torch.from_numpy(np.kron(dense(shape[1], 4), np.eye(inner))).float()  # of unfolded channels
    turned, turned_gram = (weight.flatten(1) @ basis).view(shape), basis.T @ gram @ basis
    uniform = OperandConfig(**quantizer.config.model_dump() | {"scheme": "uniform", "hadamard_block": 1})
    plain = create_quantizer(uniform, quantizer.layout, quantizer.qparams())
    expected = round_weight(turned, plain, turned_gram, InverseFactor.of_gram(turned_gram))
    assert expected is not None
    assert (codes == expected).float().mean() > 0.95  # ties fall either way
    assert list(factor.turned) == [4]
    again = round_weight(weight, quantizer, gram, factor)
    assert again is not None
    assert torch.equal(again, codes)
