"""The sum of a fine and a coarse part against the formula of PTQ4ViT's code, element by element."""

from __future__ import annotations

from fractions import Fraction
from typing import ClassVar

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from autoq.quantizers import TwinUniformSumQuantizer
from tests.contracts.quantizers import Case, QuantizerContract
from tests.quantizers.samples import tensors
from tests.quantizers.twin import VECTOR, Twin, scale_for, twin_parameters

TWIN = Twin("twin_uniform_sum")


class TestSoftmaxContract(QuantizerContract):
    gradient_is_one_within = (0.01, 0.45)
    cases: ClassVar[list[Case]] = TWIN.softmax_cases()


class TestGeluContract(QuantizerContract):
    gradient_is_one_within = (0.01, 0.9)
    cases: ClassVar[list[Case]] = TWIN.gelu_cases()


def clamped(steps: Fraction, least: int, most: int) -> int:
    return min(max(round(steps), least), most)


def reference(x: float, bits: int, scale: float, shift_bits: int, fine_sign: int) -> tuple[Fraction, Fraction]:
    """Value in exact arithmetic, and the distance, in steps, of x from the nearest place where the value changes."""
    codes, exact, coarse = 2 ** (bits - 1), Fraction(x), Fraction(scale)
    fine = coarse / 2**shift_bits
    low = high = exact
    least, most = -codes, 0
    if fine_sign > 0:
        split = (codes - 1) * fine
        low, high = min(exact, split), max(exact, split)
        least, most = 0, codes - 1
    value = coarse * clamped(high / coarse, 0, codes - 1) + fine * clamped(low / fine, least, most)
    edges = [part - (part.numerator // part.denominator) - Fraction(1, 2) for part in (exact / coarse, exact / fine)]
    return value, min(map(abs, edges))


@settings(max_examples=120, deadline=None, derandomize=True)
@given(
    x=tensors(),
    bits=st.integers(2, 8),
    parameters=twin_parameters(),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
)
def test_agrees_with_slow_reference(
    x: Tensor, bits: int, parameters: tuple[float, int, int], dtype: torch.dtype
) -> None:
    x = x.to(dtype)
    scale, shift_bits, fine_sign = scale_for(x, parameters[0]), *parameters[1:]
    quantizer = TWIN.make(bits, scale, shift_bits, fine_sign)
    codes, values = quantizer.quantize(x), quantizer(x)
    assert torch.equal(values, quantizer(x.clone().requires_grad_()).detach())
    assert torch.equal(quantizer.dequantize(codes).to(dtype), values)
    for element, code, value in zip(x.tolist(), codes.tolist(), values.tolist(), strict=True):
        expected, margin = reference(element, bits, scale, shift_bits, fine_sign)
        assert 0 <= code < 2**bits
        # A float32 quotient may lie on the other side of a threshold that is next to it.
        if margin > abs(Fraction(element)) / Fraction(scale) * 2**shift_bits * Fraction(2) ** -23:
            assert value == pytest.approx(float(expected), rel=2**-7 if dtype == torch.bfloat16 else 1e-6, abs=1e-37)


@pytest.mark.parametrize("bits", range(2, 9))
@pytest.mark.parametrize("shift_bits", [0, 1, 3, 7, 12])
def test_values_at_the_split_and_above(bits: int, shift_bits: int) -> None:
    """What the authors' code is known to do: s more than the coarse level; below s, c more where s rounds to c."""
    greatest, scale = 2 ** (bits - 1) - 1, 1 / (2 ** (bits - 1) - 1)
    quantizer = TWIN.make(bits, scale, shift_bits, 1)
    split = greatest * scale / 2**shift_bits
    below = round(greatest / 2**shift_bits) * scale
    expected = [below, below + split, 1 + split, 1 + split]
    assert quantizer(torch.tensor([0.0, split, 1.0, 7.0])).tolist() == pytest.approx(expected, rel=1e-6)
    assert len(quantizer.dequantize(torch.arange(2**bits, dtype=torch.int32)).unique()) <= 2**bits - 1


@pytest.mark.parametrize("bits", range(2, 9))
def test_negative_values_have_one_level_more(bits: int) -> None:
    codes = 2 ** (bits - 1)
    quantizer = TWIN.make(bits, 1.0, 3, -1)
    values = quantizer.dequantize(torch.arange(2 * codes, dtype=torch.int32))
    expected = [-code / 8 for code in range(codes + 1)] + [float(code) for code in range(1, codes)]
    assert values.tolist() == expected
    assert torch.equal(quantizer.dequantize(quantizer.quantize(values)), values)
    assert quantizer(torch.tensor([-100.0])).item() == -codes / 8
    assert quantizer.quantize(torch.tensor([0.0, -0.0, torch.nan])).tolist() == [0, 0, 0]


def test_range_of_softmax_outputs_keeps_zero() -> None:
    quantizer = TwinUniformSumQuantizer.from_range(TWIN.config(4), VECTOR, torch.tensor([0.0]), torch.tensor([1.0]))
    assert (quantizer.scale.item(), quantizer.shift_bits.item()) == (pytest.approx(1 / 7), 4)
    assert quantizer(torch.zeros(1)).item() == 0
