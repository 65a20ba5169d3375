"""Twin uniform quantizers against PTQ4ViT's formula, element by element."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import ClassVar

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from autoq.errors import CalibrationError
from autoq.quantizers import TwinUniformQuantizer
from tests.contracts.quantizers import LINEAR_INPUT, Case, QuantizerContract
from tests.quantizers.samples import tensors
from tests.quantizers.twin import VECTOR, Twin, scale_for, twin_parameters

TWIN = Twin("twin_uniform")


class TestSoftmaxContract(QuantizerContract):
    gradient_is_one_within = (0.01, 0.45)
    cases: ClassVar[list[Case]] = [*TWIN.softmax_cases(), Case(TWIN.config(16), lower=0.0, upper=1.0)]


class TestGeluContract(QuantizerContract):
    gradient_is_one_within = (0.01, 0.9)
    cases: ClassVar[list[Case]] = TWIN.gelu_cases()


def reference(x: float, bits: int, scale: float, shift_bits: int, fine_sign: int) -> tuple[Fraction, Fraction]:
    """Value in exact arithmetic, and the distance, in steps, of x from the nearest place where the value changes."""
    if bits == 1:
        steps = Fraction(x) / Fraction(scale)
        return Fraction(scale) * min(max(round(steps), 0), 1), abs(steps - Fraction(1, 2))
    half = 2 ** (bits - 1)
    coarse = Fraction(scale)
    fine = coarse / 2**shift_bits
    exact = Fraction(x)
    is_fine = exact < half * fine if fine_sign > 0 else exact < 0
    step = fine if is_fine else coarse
    sign = fine_sign if is_fine else 1
    steps = sign * exact / step
    value = sign * step * min(max(round(steps), 0), half - 1)
    edges = [steps.numerator // steps.denominator + Fraction(1, 2)]
    if fine_sign > 0:
        edges.append(half * fine / step)
    return value, min(abs(steps - edge) for edge in edges)


@settings(max_examples=120, deadline=None, derandomize=True)
@given(
    x=tensors(),
    bits=st.integers(1, 8),
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
    dequantized = quantizer.dequantize(codes)
    assert torch.equal(dequantized.to(dtype), values)
    for element, code, value, level in zip(
        x.tolist(), codes.tolist(), values.tolist(), dequantized.tolist(), strict=True
    ):
        expected, margin = reference(element, bits, scale, shift_bits, fine_sign)
        assert 0 <= code < 2**bits
        assert code == 0 or level != 0 or abs(expected) < 1e-40
        # A float32 quotient may lie on the other side of a threshold that is next to it.
        if margin > abs(Fraction(element)) / Fraction(scale) * 2**shift_bits * Fraction(2) ** -23:
            assert value == torch.tensor(float(expected)).to(dtype).item(), (element, code, expected)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(x=tensors(), bits=st.integers(2, 8), relative_scale=st.sampled_from([0.3, 0.011]), distance=st.floats(0, 8))
def test_steps_need_not_be_a_power_of_two_apart(x: Tensor, bits: int, relative_scale: float, distance: float) -> None:
    """After GELU, as in the authors' code: negative values in fine steps, positive ones in coarse ones."""
    scale = scale_for(x, relative_scale)
    quantizer = TWIN.make(bits, scale, distance, -1)
    fine = scale / 2.0 ** float(torch.tensor(distance))
    values = quantizer(x.float())
    assert torch.equal(quantizer.dequantize(quantizer.quantize(x.float())), values)
    for element, value in zip(x.float().tolist(), values.tolist(), strict=True):
        step = fine if element < 0 else scale
        steps = abs(element) / step
        if abs(steps - math.floor(steps) - 0.5) > 1e-6 * max(steps, 1):
            expected = math.copysign(min(round(steps), 2 ** (bits - 1) - 1) * step, element)
            assert value == pytest.approx(expected, rel=1e-5), (element, steps)


@pytest.mark.parametrize("bits", range(1, 9))
@pytest.mark.parametrize("fine_sign", [1, -1])
@pytest.mark.parametrize("shift_bits", [0, 1, 3, 7])
def test_every_code_but_the_second_zero_is_used(bits: int, fine_sign: int, shift_bits: int) -> None:
    quantizer = TWIN.make(bits, 0.5, shift_bits, fine_sign)
    codes = torch.arange(2**bits, dtype=torch.int32)
    values = quantizer.dequantize(codes)
    half = 2 ** (bits - 1)
    expected = [fine_sign * c * 0.5 / 2**shift_bits for c in range(half)] + [c * 0.5 for c in range(half)]
    if bits == 1:
        expected = [0.0, 0.5]
    assert values.tolist() == expected
    again = quantizer.dequantize(quantizer.quantize(values))
    assert torch.equal(again, values)
    assert quantizer.quantize(torch.tensor([0.0, -0.0, torch.nan])).tolist() == [0, 0, 0]


def test_range_of_softmax_outputs() -> None:
    quantizer = TwinUniformQuantizer.from_range(TWIN.config(4), VECTOR, torch.tensor([0.0]), torch.tensor([1.0]))
    assert quantizer.scale.item() == pytest.approx(1 / 7)
    assert (quantizer.shift_bits.item(), quantizer.fine_sign.item()) == (3, 1)
    # The fine range ends where the first coarse step does.
    assert len(quantizer(torch.linspace(0, 1 / 7 * 0.999, 1000)).unique()) == 8


@pytest.mark.parametrize("bits", range(2, 9))
@pytest.mark.parametrize("upper", [0.05, 0.17, 2.0, 40.0])
def test_range_of_gelu_outputs_is_covered_with_the_least_shift(bits: int, upper: float) -> None:
    lower = -0.17
    quantizer = TwinUniformQuantizer.from_range(TWIN.config(bits), VECTOR, torch.tensor([lower]), torch.tensor([upper]))
    greatest = 2 ** (bits - 1) - 1
    shift_bits = int(quantizer.shift_bits)
    fine = quantizer.scale.item() / 2**shift_bits
    assert quantizer.fine_sign.item() == -1
    assert fine * greatest == pytest.approx(-lower)
    assert quantizer.scale.item() * greatest >= upper * (1 - 1e-6)
    assert shift_bits == 0 or quantizer.scale.item() / 2 * greatest < upper
    assert quantizer(torch.tensor([-0.17])).item() == pytest.approx(-0.17)


def test_units_that_reach_differently_far_share_a_shift() -> None:
    lower, upper = torch.tensor([[[-0.1, -0.17, 0.0]]]), torch.tensor([[[8.0, 0.5, 3.0]]])
    quantizer = TwinUniformQuantizer.from_range(TWIN.config(4, granularity="channel"), LINEAR_INPUT, lower, upper)
    assert quantizer.shift_bits.numel() == 1
    assert (quantizer.scale * 7 >= upper).all()


@pytest.mark.parametrize(
    ("fine_sign", "x", "expected"),
    [
        (1, 0.6, 1 - 1.2),
        (1, 0.13, 0.25 - 0.26),
        (1, 100.0, 3.0),
        (1, -100.0, 0.0),
        (-1, -0.1, -0.25 + 0.2),
        (-1, -9.0, -0.75),
    ],
)
def test_scale_gradient_is_that_of_lsq(fine_sign: int, x: float, expected: float) -> None:
    quantizer = TWIN.make(3, 0.5, 2, fine_sign)
    scale = quantizer.scale
    assert isinstance(scale, Tensor)
    scale.requires_grad_()
    quantizer(torch.tensor([x])).sum().backward()
    assert scale.grad is not None
    assert scale.grad.item() == pytest.approx(expected)


@pytest.mark.parametrize(
    ("scale", "shift_bits", "fine_sign", "complaint"),
    [
        (0.0, 1, 1, "scale must be positive"),
        (1.0, 31.5, 1, "shift_bits must be in 0..31"),
        (1.0, -1, 1, "shift_bits must be in 0..31"),
        (1.0, 1, 0, "fine_sign must be 1 or -1"),
    ],
)
def test_refuses_wrong_parameters(scale: float, shift_bits: float, fine_sign: float, complaint: str) -> None:
    with pytest.raises(CalibrationError, match=complaint):
        TWIN.make(4, scale, shift_bits, fine_sign)
