"""Codes of weights, kept within bounds."""

from __future__ import annotations

import pytest
import torch

from autoq.calibration.bank.quantized_weights import QuantizedWeights
from autoq.quantizers import BaseQuantizer, quantizer_class
from autoq.recipe import OperandConfig
from tests.contracts.quantizers import LINEAR_WEIGHT

WEIGHT = torch.randn(6, 8, generator=torch.Generator().manual_seed(0))


def quantizer_of(config: OperandConfig) -> BaseQuantizer:
    cls = quantizer_class(config.scheme)
    shape = cls.range_shape(config, LINEAR_WEIGHT, WEIGHT.shape)
    return cls.from_range(config, LINEAR_WEIGHT, torch.full(shape, -2.0), torch.full(shape, 2.0))


def uniform(bits: int) -> BaseQuantizer:
    return quantizer_of(OperandConfig(scheme="uniform", bits=bits, granularity="channel"))


def test_the_weights_asked_for_last_are_kept() -> None:
    quantizers = [uniform(bits) for bits in (2, 3, 4, 12)]
    kept = QuantizedWeights(2 * WEIGHT.numel())  # one byte a code: two weights
    for number in (0, 1, 0, 2):
        assert torch.equal(kept.get(number, quantizers[number], WEIGHT), quantizers[number](WEIGHT))
    assert (0 in kept, 1 in kept, 2 in kept) == (True, False, True)
    assert torch.equal(kept.get(3, quantizers[3], WEIGHT), quantizers[3](WEIGHT))  # codes of twelve bits
    assert (0 in kept, 2 in kept, 3 in kept) == (False, False, True)  # those of one weight at least


def test_a_code_more_than_a_byte_holds_is_kept_whole() -> None:
    quantizer = quantizer_of(OperandConfig(scheme="log2", bits=8, overflow="extra_zero"))
    kept, weight = QuantizedWeights(1 << 20), torch.full((6, 8), -10.0)
    assert int(quantizer.quantize(weight).max()) == 256
    for _ in range(2):
        assert torch.equal(kept.get("w", quantizer, weight), quantizer(weight))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_values_have_the_type_of_the_weight(dtype: torch.dtype) -> None:
    quantizer, weight = uniform(4), WEIGHT.to(dtype)
    found = QuantizedWeights(1 << 20).get("w", quantizer, weight)
    assert found.dtype == dtype
    assert torch.equal(found, quantizer(weight))


def test_codes_may_be_given() -> None:
    quantizer, kept = uniform(3), QuantizedWeights(1 << 20)
    codes = torch.randint(8, (6, 8), generator=torch.Generator().manual_seed(1)).to(torch.uint8)
    found = kept.get("w", quantizer, WEIGHT, lambda: codes)
    assert torch.equal(found, quantizer.dequantize(codes))
    assert torch.equal(kept.get("w", quantizer, WEIGHT, lambda: pytest.fail("asked for again")), found)


def test_rounding_is_done_once() -> None:
    quantizer, kept = uniform(4), QuantizedWeights(1 << 20)
    first = kept.get("w", quantizer, WEIGHT)
    assert torch.equal(kept.get("w", quantizer, WEIGHT + 1), first)  # the same key stands for the same weight
