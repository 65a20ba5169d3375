"""What the three logarithmic schemes share, against exact rational arithmetic."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from autoq.errors import CalibrationError
from autoq.quantizers import BaseLogQuantizer, create_quantizer, quantizer_class
from autoq.recipe import OperandConfig
from tests.quantizers.logarithms import (
    VECTOR,
    base_of,
    check,
    config_of,
    configs,
    make,
    reference_code,
    reference_value,
)
from tests.quantizers.samples import tensors

GELU_SHIFT = 0.16997


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


@pytest.mark.parametrize("bits", [1, 3, 6])
@pytest.mark.parametrize("scheme", ["log2", "log_sqrt2", "adalog"])
def test_levels_of_bases_are_those_of_the_quantizers(scheme: str, bits: int) -> None:
    cls = quantizer_class(scheme)
    assert issubclass(cls, BaseLogQuantizer)
    count = 2**bits - 1
    levels = cls.levels_of_bases(bits, count)
    assert levels.shape == (len(cls.log_base_numerators), count)
    assert levels.dtype == torch.float64
    for numerator, row in list(zip(cls.log_base_numerators, levels, strict=True))[::25]:
        option = config_of(scheme, bits, **({"log_base_numerator": numerator} if scheme == "adalog" else {}))
        assert torch.equal(make(option).dequantize(torch.arange(count)), row.float())
    octaves = -torch.log2(levels[:, 1]) if count > 1 and scheme != "adalog" else None
    assert octaves is None or torch.allclose(octaves, cls.octaves_per_code())


def test_refuses_scales_and_shifts_that_make_no_levels() -> None:
    qparams = {"scale": torch.ones(1), "shift": torch.zeros(1)}
    with pytest.raises(CalibrationError, match="log2: scale must be positive, the least is 0"):
        create_quantizer(config_of("log2", 4), VECTOR, qparams | {"scale": torch.zeros(1)})
    with pytest.raises(CalibrationError, match=r"log2: shift must be one number, got shape \(2,\)"):
        create_quantizer(config_of("log2", 4), VECTOR, qparams | {"shift": torch.zeros(2)})


def test_the_scale_is_learned_unless_it_is_that_of_softmax_outputs() -> None:
    assert make(config_of("log2", 4), 2.0, GELU_SHIFT).learnable == ("scale",)
    assert make(config_of("log2", 4)).learnable == ()
