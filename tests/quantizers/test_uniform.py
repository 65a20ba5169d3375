from __future__ import annotations

import math
from typing import ClassVar

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from autoq.errors import CalibrationError
from autoq.quantizers import OperandLayout, UniformQuantizer, create_quantizer
from autoq.recipe import OperandConfig
from tests.contracts.quantizers import ATTENTION_MAP, CONV_INPUT, LINEAR_INPUT, LINEAR_WEIGHT, Case, QuantizerContract
from tests.quantizers.samples import tensors


def uniform(bits: int, **options: object) -> OperandConfig:
    return OperandConfig.model_validate({"scheme": "uniform", "bits": bits} | options)


class TestContract(QuantizerContract):
    gradient_is_one_within = (0.05, 0.4)
    cases: ClassVar[list[Case]] = [
        Case(uniform(1)),
        Case(uniform(4)),
        Case(uniform(8, granularity="channel")),
        Case(uniform(1, symmetric=True)),
        Case(uniform(3, symmetric=True), upper=1.0),
        Case(uniform(4, granularity="head"), ATTENTION_MAP, (4, 3, 5, 6)),
        Case(uniform(3, granularity="group", groups=5)),
        Case(uniform(4, granularity="group", groups=3), LINEAR_WEIGHT, (6, 10)),
        Case(uniform(4, granularity="channel"), LINEAR_WEIGHT, (6, 10)),
        Case(uniform(4, granularity="group", groups=2), CONV_INPUT, (4, 6, 5, 3)),
    ]


def reference_code(x: float, scale: float, zero_point: float, bits: int) -> tuple[int, bool]:
    """The code of x in exact-enough arithmetic, and whether a float32 quotient may round to the neighbouring one."""
    quotient = x / scale
    code = quotient if math.isinf(quotient) else round(quotient) + zero_point
    nearest_tie = math.floor(quotient) + 0.5 if math.isfinite(quotient) else math.inf
    doubtful = abs(quotient - nearest_tie) <= abs(nearest_tie) * 2**-23
    return int(min(max(code, 0), 2**bits - 1)), doubtful


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    x=tensors(), bits=st.integers(1, 8), symmetric=st.booleans(), dtype=st.sampled_from([torch.float32, torch.bfloat16])
)
def test_agrees_with_slow_reference(x: torch.Tensor, bits: int, symmetric: bool, dtype: torch.dtype) -> None:
    if bits == 1 and symmetric:
        return
    x = x.to(dtype)
    layout = OperandLayout(ndim=1, channel_axis=-1)
    lower, upper = (torch.quantile(x.float(), q, dim=0, keepdim=True) for q in (0.1, 0.95))
    quantizer = UniformQuantizer.from_range(uniform(bits, symmetric=symmetric), layout, lower, upper)
    scale, zero_point = quantizer.scale.item(), quantizer.zero_point.item()
    values, codes = quantizer(x), quantizer.quantize(x)
    assert values.dtype == dtype
    for element, value, code in zip(x.tolist(), values.tolist(), codes.tolist(), strict=True):
        expected, doubtful = reference_code(element, scale, zero_point, bits)
        assert code == expected or (doubtful and abs(code - expected) == 1)
        exact = np.float32(code - zero_point) * np.float32(scale)
        assert value == torch.tensor(exact).to(dtype).item()


@settings(max_examples=60, deadline=None, derandomize=True)
@given(x=tensors(), bits=st.integers(1, 8), symmetric=st.booleans())
def test_error_is_at_most_half_a_step_between_the_bounds(x: torch.Tensor, bits: int, symmetric: bool) -> None:
    layout = OperandLayout(ndim=1, channel_axis=-1)
    lower, upper = x.min().reshape(1), x.max().reshape(1)
    quantizer = UniformQuantizer.from_range(uniform(bits, symmetric=symmetric), layout, lower, upper)
    error = (quantizer(x).double() - x.double()).abs()
    # An affine zero point is rounded, which moves the grid by up to half a step: the ends may be that far outside.
    tolerance = 0.5 if symmetric else 1.0
    rounding = x.abs().double() * 2**-22 + 1e-44  # of products and quotients in single precision
    assert (error <= quantizer.scale.double() * tolerance * (1 + 1e-5) + rounding).all()
    reached = (x >= quantizer.dequantize(torch.zeros(1, dtype=torch.int32))) & (
        x <= quantizer.dequantize(torch.full((1,), 2**bits - 1, dtype=torch.int32))
    )
    assert (error[reached] <= quantizer.scale.double() * 0.5 * (1 + 1e-5) + 1e-44).all()


@pytest.mark.parametrize("bits", range(1, 9))
def test_zero_is_exact_when_affine(bits: int) -> None:
    layout = OperandLayout(ndim=1, channel_axis=-1)
    for bounds in [(-1.0, 3.0), (2.0, 5.0), (-5.0, -2.0), (-3e38, 3e38), (0.0, 0.0)]:
        lower, upper = (torch.tensor([bound]) for bound in bounds)
        quantizer = UniformQuantizer.from_range(uniform(bits), layout, lower, upper)
        assert quantizer(torch.zeros(4)).tolist() == [0.0] * 4
        assert 0 <= quantizer.zero_point <= 2**bits - 1


def test_one_symmetric_bit_is_the_sign() -> None:
    layout = OperandLayout(ndim=1, channel_axis=-1)
    bounds = torch.tensor([-1.0]), torch.tensor([2.0])
    quantizer = UniformQuantizer.from_range(uniform(1, symmetric=True), layout, *bounds)
    x = torch.tensor([-5.0, -0.1, 0.0, 0.1, 5.0])
    assert quantizer(x).tolist() == [-2.0, -2.0, 2.0, 2.0, 2.0]
    assert quantizer.quantize(x).tolist() == [0, 0, 1, 1, 1]


def test_static_groups_are_consecutive_and_as_equal_as_can_be() -> None:
    config = uniform(2, granularity="group", groups=3)
    scale = torch.tensor([1.0, 10.0, 100.0]).reshape(1, 1, 3)
    quantizer = create_quantizer(config, LINEAR_INPUT, {"scale": scale, "zero_point": torch.zeros(1, 1, 3)})
    assert quantizer(torch.full((1, 1, 8), 1e9)).flatten().tolist() == [3.0] * 3 + [30.0] * 3 + [300.0] * 2


def test_weight_groups_are_per_output_channel() -> None:
    config = uniform(4, granularity="group", groups=2)
    assert LINEAR_WEIGHT.parameter_shape((5, 8), config) == (5, 2)
    scale = torch.arange(1.0, 11.0).reshape(5, 2)
    quantizer = create_quantizer(config, LINEAR_WEIGHT, {"scale": scale, "zero_point": torch.zeros(5, 2)})
    assert torch.equal(quantizer(torch.full((5, 8), 1e9)), 15 * scale.repeat_interleave(4, 1))


def test_scale_gradient_is_that_of_lsq() -> None:
    layout = OperandLayout(ndim=1, channel_axis=-1)
    qparams = {"scale": torch.tensor([0.5]), "zero_point": torch.tensor([4.0])}
    for x, expected in [(0.6, 1 - 1.2), (100.0, 3.0), (-100.0, -4.0)]:
        quantizer = create_quantizer(uniform(3), layout, qparams)
        scale = quantizer.scale
        assert isinstance(scale, torch.Tensor)
        scale.requires_grad_()
        quantizer(torch.tensor([x])).sum().backward()
        assert scale.grad is not None
        assert scale.grad.item() == pytest.approx(expected)


@pytest.mark.parametrize(
    ("config", "scale", "zero_point"),
    [
        (uniform(4), [0.0], [0.0]),
        (uniform(4), [-1.0], [0.0]),
        (uniform(4), [1.0], [0.5]),
        (uniform(4, symmetric=True), [1.0], [0.0]),
        (uniform(4), [1.0, 1.0], [0.0, 0.0]),
        (uniform(4, granularity="channel"), [1.0, 1.0], [0.0]),
    ],
)
def test_refuses_parameters_that_make_no_grid(
    config: OperandConfig, scale: list[float], zero_point: list[float]
) -> None:
    layout = OperandLayout(ndim=1, channel_axis=-1)
    with pytest.raises(CalibrationError, match="uniform"):
        create_quantizer(config, layout, {"scale": torch.tensor(scale), "zero_point": torch.tensor(zero_point)})
