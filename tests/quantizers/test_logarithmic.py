"""The three logarithmic schemes, against exact rational arithmetic."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import ClassVar

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from autoq.errors import CalibrationError
from autoq.quantizers import BaseQuantizer, OperandLayout, create_quantizer, quantizer_class
from autoq.recipe import OperandConfig
from tests.contracts.quantizers import ATTENTION_MAP, Case, QuantizerContract
from tests.quantizers.samples import tensors

VECTOR = OperandLayout(ndim=1, channel_axis=-1)
GELU_SHIFT = 0.16997


def config_of(scheme: str, bits: int, **options: object) -> OperandConfig:
    return OperandConfig.model_validate({"scheme": scheme, "bits": bits} | options)


def make(config: OperandConfig, scale: float = 1.0, shift: float = 0.0) -> BaseQuantizer:
    qparams = {"scale": torch.tensor([scale]), "shift": torch.tensor([shift])}
    if config.scheme == "adalog":
        qparams["log_base_numerator"] = torch.tensor(config.log_base_numerator or 37)
    return create_quantizer(config, VECTOR, qparams)


class TestLog2Contract(QuantizerContract):
    gradient_is_one_within = (0.01, 0.49)
    cases: ClassVar[list[Case]] = [
        Case(config_of("log2", 1), lower=0.0, upper=1.0),
        Case(config_of("log2", 4), ATTENTION_MAP, (4, 3, 5, 6), lower=0.0, upper=1.0),
        Case(config_of("log2", 8), lower=0.0, upper=1.0),
    ]


class TestLogSqrt2Contract(QuantizerContract):
    gradient_is_one_within = (0.01, 0.49)
    cases: ClassVar[list[Case]] = [
        Case(config_of("log_sqrt2", 3), lower=0.0, upper=1.0),
        Case(config_of("log_sqrt2", 4, granularity="channel"), lower=0.0, upper=1.0),
        Case(config_of("log_sqrt2", 8, overflow="extra_zero"), lower=0.0, upper=1.0),
    ]


class TestAdaLogContract(QuantizerContract):
    gradient_is_one_within = (0.01, 0.2)
    is_idempotent = False  # a value rounded to the table's grid may lie in a neighbour's interval
    cases: ClassVar[list[Case]] = [
        Case(config_of("adalog", 1), lower=0.0, upper=1.0),
        Case(config_of("adalog", 3, log_base_numerator=20), ATTENTION_MAP, (4, 3, 5, 6), lower=0.0, upper=1.0),
        Case(config_of("adalog", 4, overflow="extra_zero"), lower=0.0, upper=1.0),
        Case(config_of("adalog", 4, log_base_numerator=17), lower=-0.16, upper=2.0),
        Case(config_of("adalog", 4, granularity="group", groups=5), lower=-0.16, upper=2.0),
        Case(config_of("adalog", 8, log_base_numerator=10), lower=0.0, upper=1.0),
        Case(config_of("adalog", 5, granularity="head"), ATTENTION_MAP, (4, 3, 5, 6), lower=0.0, upper=1.0),
        Case(config_of("adalog", 16), lower=0.0, upper=1.0),
    ]


def base_of(config: OperandConfig) -> tuple[int, int]:
    """The base's binary logarithm."""
    return {"log2": (1, 1), "log_sqrt2": (1, 2), "adalog": (config.log_base_numerator or 37, 37)}[config.scheme]


def reference_code(y: float, config: OperandConfig) -> int:
    """round(−log2(y) · r / q), ties to even, by comparing whole numbers: y^(2r) against 2^(−(2i + 1)q)."""
    q, r = base_of(config)
    levels = 2**config.bits - (config.overflow == "zero_code")
    if y < np.finfo(np.float32).tiny:
        return levels
    guess = max(0, round(-math.log2(y) * r / q) - 1) if math.isfinite(y) else 0
    power = Fraction(y) ** (2 * r) if math.isfinite(y) else Fraction(2)
    for code in range(guess, guess + 3):
        threshold = Fraction(1, 2 ** ((2 * code + 1) * q))
        if power > threshold or (power == threshold and code % 2 == 0):
            return min(code, levels)
    raise AssertionError(y)


def reference_value(code: int, config: OperandConfig) -> float:
    """Value of a code at scale one."""
    q, r = base_of(config)
    if code == 2**config.bits - (config.overflow == "zero_code"):
        return 0.0
    if config.scheme != "adalog":
        return 2.0 ** (-code * q / r)
    steps = 2 ** (config.bits + 1) - 2
    table = round(2.0 ** (-((q * code) % r) / r) * steps) / steps
    return 2.0 ** -math.floor(q * code / r) * table


configs = st.builds(
    config_of,
    scheme=st.sampled_from(["log2", "log_sqrt2", "adalog"]),
    bits=st.integers(1, 8),
    overflow=st.sampled_from(["zero_code", "extra_zero"]),
    log_base_numerator=st.integers(10, 137),
)


def check(x: torch.Tensor, config: OperandConfig) -> None:
    quantizer = make(config)
    codes, values = quantizer.quantize(x), quantizer(x)
    for element, code, value in zip(x.tolist(), codes.tolist(), values.tolist(), strict=True):
        assert code == reference_code(element, config), (element, config)
        assert value == torch.tensor(reference_value(code, config)).to(x.dtype).item(), (element, config)


@settings(max_examples=80, deadline=None, derandomize=True)
@given(x=tensors(), config=configs, dtype=st.sampled_from([torch.float32, torch.bfloat16]))
def test_agrees_with_slow_reference(x: torch.Tensor, config: OperandConfig, dtype: torch.dtype) -> None:
    check(x.to(dtype), config)


@settings(max_examples=50, deadline=None, derandomize=True)
@given(config=configs)
def test_is_exact_beside_every_threshold(config: OperandConfig) -> None:
    q, r = base_of(config)
    powers = [2.0 ** (-(2 * code + 1) * q / (2 * r)) for code in range(2**config.bits)]
    near = np.array([power for power in powers if power > 1e-37][:64], dtype=np.float32)
    below = np.nextafter(near, np.float32(0))
    above = np.nextafter(near, np.float32(1))
    special = np.array([0.0, -0.0, 1.0, 2.0, 3e38, np.inf, 1e-45, np.finfo(np.float32).tiny], dtype=np.float32)
    check(torch.from_numpy(np.concatenate([below, near, above, special])), config)


@pytest.mark.parametrize("code_is_even", [True, False])
def test_ties_go_to_the_even_code(code_is_even: bool) -> None:
    """With q = 74 the thresholds are 2^−1, 2^−3, 2^−5 ...: exact ties in float32."""
    quantizer = make(config_of("adalog", 4, log_base_numerator=74))
    x = torch.tensor([2.0**-1, 2.0**-5] if code_is_even else [2.0**-3, 2.0**-7])
    assert quantizer.quantize(x).tolist() == ([0, 2] if code_is_even else [2, 4])
    assert quantizer.quantize(x.double()).tolist() == quantizer.quantize(x).tolist()


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    x=tensors(), config=configs, scale=st.floats(2**-7, 100, width=32), shift=st.sampled_from([0.0, GELU_SHIFT, 3.0])
)
def test_scale_and_shift_agree_with_slow_reference(
    x: torch.Tensor, config: OperandConfig, scale: float, shift: float
) -> None:
    quantizer = make(config, scale, shift)
    scale32, shift32 = np.float32(scale), np.float32(shift)
    codes, values = quantizer.quantize(x), quantizer(x)
    with np.errstate(over="ignore"):
        for element, code, value in zip(x.tolist(), codes.tolist(), values.tolist(), strict=True):
            scaled = (np.float32(element) + shift32) / scale32
            assert code == reference_code(float(scaled), config)
            assert value == np.float32(reference_value(code, config)) * scale32 - shift32


@settings(max_examples=30, deadline=None, derandomize=True)
@given(config=configs, x=tensors(elements=500, non_negative=True))
def test_fast_and_plain_arithmetic_agree(config: OperandConfig, x: torch.Tensor) -> None:
    quantizer = make(config)
    x[0] = torch.nan
    plain = quantizer(x.double())  # other types than float32 take the plain way
    torch.testing.assert_close(quantizer(x), plain.float(), rtol=0, atol=0, equal_nan=True)


def test_more_elements_than_a_block() -> None:
    x = torch.rand(3, 200_001, generator=torch.Generator().manual_seed(0)) ** 4
    for bits in (4, 8):
        quantizer = make(config_of("adalog", bits, log_base_numerator=13))
        expected = quantizer.dequantize(quantizer.quantize(x))
        assert torch.equal(quantizer(x), expected)


def test_gelu_outputs_are_shifted_by_the_constant() -> None:
    for scheme in ("adalog", "log2", "log_sqrt2"):
        cls = quantizer_class(scheme)
        fitted = cls.from_range(config_of(scheme, 4), VECTOR, torch.tensor([-0.1]), torch.tensor([3.0])).qparams()
        assert fitted["shift"].item() == pytest.approx(GELU_SHIFT)
        assert fitted["scale"].item() == pytest.approx(3 + GELU_SHIFT)
        softmax = cls.from_range(config_of(scheme, 4), VECTOR, torch.tensor([0.0]), torch.tensor([1.0])).qparams()
        assert softmax["shift"].item() == 0
        assert softmax["scale"].item() == 1


def test_extra_zero_spends_one_code_more() -> None:
    x = torch.exp2(-torch.arange(0.0, 6.0))
    assert make(config_of("log2", 2)).quantize(x).tolist() == [0, 1, 2, 3, 3, 3]
    assert make(config_of("log2", 2, overflow="extra_zero")).quantize(x).tolist() == [0, 1, 2, 3, 4, 4]
    assert make(config_of("log2", 2))(x).tolist() == [1.0, 0.5, 0.25, 0, 0, 0]


@pytest.mark.parametrize("numerator", [9, 138, 20.5])
def test_refuses_bases_out_of_range(numerator: float) -> None:
    qparams = {"scale": torch.ones(1), "shift": torch.zeros(1), "log_base_numerator": torch.tensor(numerator)}
    with pytest.raises(CalibrationError, match="log_base_numerator must be a whole number"):
        create_quantizer(config_of("adalog", 4), VECTOR, qparams)


def test_refuses_a_base_other_than_the_configured_one() -> None:
    qparams = {"scale": torch.ones(1), "shift": torch.zeros(1), "log_base_numerator": torch.tensor(20)}
    with pytest.raises(CalibrationError, match="but the configuration says 31"):
        create_quantizer(config_of("adalog", 4, log_base_numerator=31), VECTOR, qparams)
    with pytest.raises(CalibrationError, match="scale must be positive"):
        create_quantizer(config_of("adalog", 4), VECTOR, qparams | {"scale": torch.zeros(1)})
