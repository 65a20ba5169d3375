"""Integer LayerNorm against the published formulas, one number at a time."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from autoq.errors import CalibrationError
from autoq.quantizers import IntegerLayerNorm, OperandLayout, PowerOfTwoFactorQuantizer, create_quantizer
from autoq.quantizers.integer_layer_norm import integer_statistics
from autoq.recipe import OperandConfig
from tests.quantizers.samples import tensors
from tests.quantizers.test_integer_softmax import IntegersOnly

CHANNELS = 12


def reference_row(
    multiples: list[int], scale: float, gamma: list[float], beta: list[float], eps: float, output_scale: float
) -> tuple[list[int], list[bool]]:
    """Whole multiples of the output's scale, and which of them hang on the last bits of a float64 square root."""
    count = len(multiples)
    mean = Fraction(scale) * Fraction(sum(multiples), count)
    spread = count * sum(m * m for m in multiples) - sum(multiples) ** 2
    std = math.sqrt(Fraction(scale) ** 2 * spread / count**2 + Fraction(eps))
    results, doubtful = [], []
    for m, g, b in zip(multiples, gamma, beta, strict=True):
        slope = Fraction(g) / Fraction(std) if spread else Fraction(0)
        a = Fraction(scale) * slope / Fraction(output_scale)
        shift = 31
        if a:
            floor = next(k for k in range(-200, 200) if Fraction(2) ** (k + 1) > abs(a))
            shift = min(max(7 - floor, 0), 31)
        multiplier = min(max(math.floor(abs(a) * 2**shift), 0), 255)
        exact_offset = (Fraction(b) - mean * slope) / Fraction(output_scale) * 2**shift
        sign = (a > 0) - (a < 0)
        shifted = Fraction(sign * multiplier * m + round(exact_offset), 2**shift)
        results.append(round(shifted))
        near = abs(a) * 2**shift
        doubtful.append(
            abs(near - round(near)) < Fraction(1, 10**9)
            or abs(exact_offset % 1 - Fraction(1, 2)) < abs(exact_offset) / 10**12 + Fraction(1, 10**9)
        )
    return results, doubtful


def draw_multiples(seed: int, spread: float, constant: bool) -> list[int]:
    generator = torch.Generator().manual_seed(seed)
    drawn = (torch.randn(CHANNELS, generator=generator, dtype=torch.float64) * spread).round().long()
    return (drawn * 0 + drawn[0] if constant else drawn).tolist()  # type: ignore[no-any-return]


all_multiples = st.builds(
    draw_multiples, st.integers(0, 2**31), st.sampled_from([1.0, 30.0, 2000.0, 500_000.0]), st.booleans()
)


@settings(max_examples=120, deadline=None, derandomize=True)
@given(
    multiples=all_multiples,
    scale=st.sampled_from([0.01, 0.5, 1e-4]),
    output_scale=st.sampled_from([0.02, 0.3, 1e-3]),
    seed=st.integers(0, 100),
    dtype=st.sampled_from([torch.float32, torch.float64]),
)
def test_agrees_with_slow_reference(
    multiples: list[int], scale: float, output_scale: float, seed: int, dtype: torch.dtype
) -> None:
    generator = torch.Generator().manual_seed(seed)
    weight, bias = torch.randn(2, CHANNELS, generator=generator)
    weight[3] = 0.0
    x = (torch.tensor([multiples, multiples[::-1]]).double() * scale).to(dtype)
    y = IntegerLayerNorm(scale, output_scale)(x, [CHANNELS], weight, bias, 1e-5, False)
    assert y.dtype == dtype
    for row, values in zip((multiples, multiples[::-1]), y, strict=True):
        expected, doubtful = reference_row(row, scale, weight.tolist(), bias.tolist(), 1e-5, output_scale)
        for found, one, is_doubtful in zip(values.tolist(), expected, doubtful, strict=True):
            slack = 1 + abs(one) / 100 if is_doubtful else 0
            assert abs(found / output_scale - one) <= slack + 1e-6 * abs(one)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(multiples=all_multiples)
def test_statistics_are_exact_integers(multiples: list[int]) -> None:
    with IntegersOnly():
        total, spread = integer_statistics(torch.tensor([multiples]))
    assert total.item() == sum(multiples)
    assert spread.item() == len(multiples) * sum(m * m for m in multiples) - sum(multiples) ** 2


def test_statistics_do_not_overflow_at_the_clamp() -> None:
    for channels in (1, 12, 1024):
        limit = 2**31 // channels
        ends = [limit if channel % 2 else -limit for channel in range(channels)]
        total, spread = integer_statistics(torch.tensor(ends))
        assert spread.item() == channels * sum(m * m for m in ends) - sum(ends) ** 2
        assert total.item() == sum(ends)
        y = IntegerLayerNorm(1.0)(torch.tensor([ends]) * 1e10, [channels])
        assert y.isfinite().all()


@settings(max_examples=80, deadline=None, derandomize=True)
@given(x=tensors(), dtype=st.sampled_from([torch.float32, torch.bfloat16]), bits=st.integers(2, 8))
def test_of_quantized_inputs_is_the_layer_norm(x: Tensor, dtype: torch.dtype, bits: int) -> None:
    """Without an output scale, integers change nothing: exact sums, whatever the factors."""
    x = x.clamp(-1e6, 1e6).reshape(4, CHANNELS).to(dtype)
    layout = OperandLayout(ndim=2, channel_axis=-1)
    config = OperandConfig(scheme="power_of_two_factor", bits=bits)
    plain = PowerOfTwoFactorQuantizer.from_range(config, layout, x.amin().float(), x.amax().float())
    exponent = (torch.arange(CHANNELS) % 4).float().reshape(1, CHANNELS)
    quantizer = create_quantizer(config, layout, plain.qparams() | {"exponent": exponent})
    generator = torch.Generator().manual_seed(bits)
    weight, bias = torch.randn(2, CHANNELS, generator=generator)
    norm = IntegerLayerNorm(plain.scale)
    y = norm(quantizer(x), (CHANNELS,), weight, bias)
    assert y.dtype == dtype
    multiples = (quantizer(x).double() / plain.scale.double()).round()
    exact = multiples * plain.scale.double()
    expected = functional.layer_norm(exact, (CHANNELS,), weight.double(), bias.double())
    tolerance = 1e-5 if dtype == torch.float32 else 2**-7
    torch.testing.assert_close(y.double(), expected, rtol=tolerance, atol=1e-5)


def test_eight_bit_multipliers_are_close_to_the_layer_norm() -> None:
    generator = torch.Generator().manual_seed(0)
    multiples = torch.randint(-1000, 1000, (20, 64), generator=generator)
    weight, bias = torch.rand(2, 64, generator=generator) + 0.5
    x = multiples * 0.004
    y = IntegerLayerNorm(torch.tensor([0.004]), torch.tensor(0.01))(x, [64], weight, bias)
    expected = functional.layer_norm(x, [64], weight, bias)
    # A multiplier is cut to eight bits, of which the first is one: 2^−7 at most, of the product alone.
    bound = (x / x.std(-1, keepdim=True, unbiased=False) * weight).abs() * 2**-7 + 0.006
    assert ((y - expected).abs() <= bound).all()
    assert (y != expected).any()
    steps = y.double() / 0.01
    assert (steps - steps.round()).abs().max() < 1e-4


@pytest.mark.parametrize("output_scale", [None, 0.125])
def test_constant_rows_give_the_bias(output_scale: float | None) -> None:
    bias = torch.tensor([0.5, -1.0, 0.0])
    for value in (0.0, 3.0, -7.5):
        for eps in (1e-5, 0.0):
            x = torch.full((2, 3), value)
            y = IntegerLayerNorm(0.5, output_scale)(x, [3], torch.tensor([1.0, -2.0, 1e-3]), bias, eps)
            torch.testing.assert_close(y, bias.expand(2, 3))


def test_infinite_and_missing_inputs() -> None:
    x = torch.tensor([[1.0, 2.0, torch.inf, -torch.inf], [1.0, torch.nan, 0.0, 2.0]])
    for output_scale in (None, 0.1):
        y = IntegerLayerNorm(0.5, output_scale)(x, [4])
        assert y[0].isfinite().all()
        assert y[1].isnan().all()


@pytest.mark.parametrize("output_scale", [None, 0.05])
def test_gradients_are_those_of_the_layer_norm(output_scale: float | None) -> None:
    generator = torch.Generator().manual_seed(0)
    x = (torch.randint(-50, 50, (3, 5, 8), generator=generator) * 0.1).requires_grad_()
    weight, bias = (torch.randn(8, generator=generator).requires_grad_() for _ in range(2))
    cotangent = torch.randn(3, 5, 8, generator=generator)
    norm = IntegerLayerNorm(0.1, output_scale)
    y = norm(x, [8], weight, bias)
    with torch.no_grad():
        assert torch.equal(y, norm(x, [8], weight, bias))
    found = torch.autograd.grad((y * cotangent).sum(), (x, weight, bias))
    expected = torch.autograd.grad((functional.layer_norm(x, [8], weight, bias) * cotangent).sum(), (x, weight, bias))
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("shape", [[3, 8], [4], []])
def test_refuses_other_dimensions_than_the_last(shape: list[int]) -> None:
    with pytest.raises(CalibrationError, match="the last dimension alone"):
        IntegerLayerNorm(0.1)(torch.zeros(2, 3, 8), shape)


def test_refuses_scales() -> None:
    for scale in (0.0, -1.0, math.inf, math.nan):
        with pytest.raises(CalibrationError, match="scale must be positive"):
            IntegerLayerNorm(scale)
        with pytest.raises(CalibrationError, match="output_scale must be positive"):
            IntegerLayerNorm(1.0, scale)
    with pytest.raises(CalibrationError, match="scale must be one number"):
        IntegerLayerNorm(torch.ones(3))


def test_survives_export_with_a_dynamic_batch() -> None:
    class Model(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = IntegerLayerNorm(0.1, 0.05)
            self.weight = torch.nn.Parameter(torch.linspace(-1, 1, 8))

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.norm(x, [8], self.weight)
            return y

    x = torch.randint(-50, 50, (3, 5, 8), generator=torch.Generator().manual_seed(0)) * 0.1
    with torch.no_grad():
        program = torch.export.export(Model().eval(), (x,), dynamic_shapes={"x": {0: torch.export.Dim.DYNAMIC}})
        assert torch.equal(program.module()(x[:2]), Model()(x[:2]))
