"""LogRound of reciprocals, against rational arithmetic."""

from __future__ import annotations

from fractions import Fraction
from typing import ClassVar

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from autoq.errors import CalibrationError
from autoq.quantizers import BaseQuantizer, LogIntSoftmaxQuantizer, OperandLayout, create_quantizer
from autoq.recipe import OperandConfig
from tests.contracts.quantizers import ATTENTION_MAP, Case, QuantizerContract
from tests.quantizers.samples import tensors

VECTOR = OperandLayout(ndim=1, channel_axis=-1)


def log_int(bits: int, overflow: str = "zero_code") -> OperandConfig:
    return OperandConfig.model_validate({"scheme": "log_int_softmax", "bits": bits, "overflow": overflow})


def make(bits: int, overflow: str = "zero_code") -> BaseQuantizer:
    zero = torch.zeros(1)
    return LogIntSoftmaxQuantizer.from_range(log_int(bits, overflow), VECTOR, zero, zero)


class TestContract(QuantizerContract):
    gradient_is_one_within = (0.01, 0.99)
    cases: ClassVar[list[Case]] = [
        Case(log_int(1), lower=0.0, upper=1.0),
        Case(log_int(4), ATTENTION_MAP, (4, 3, 5, 6), lower=0.0, upper=1.0),
        Case(log_int(4, "extra_zero"), lower=0.0, upper=1.0),
        Case(log_int(8), lower=0.0, upper=1.0),
    ]


def log_round(n: int) -> int:
    """As published: floor(log2 N), one more where the remainder reaches half of the power of two."""
    if n == 0:
        return 0
    floor = n.bit_length() - 1
    return floor + (2 * (n - 2**floor) >= 2**floor)


def reference_code(x: float, bits: int, overflow: str) -> int:
    zero = 2**bits - (overflow == "zero_code")
    if not x >= float(np.finfo(np.float32).tiny):
        return zero
    n = 0 if x == float("inf") else round(1 / Fraction(x))
    return min(log_round(n), zero)


def check(x: Tensor, bits: int, overflow: str) -> None:
    quantizer = make(bits, overflow)
    codes, values = quantizer.quantize(x), quantizer(x)
    assert torch.equal(values, quantizer(x.clone().requires_grad_()).detach())
    zero = 2**bits - (overflow == "zero_code")
    for element, code, value in zip(x.tolist(), codes.tolist(), values.tolist(), strict=True):
        expected = reference_code(element, bits, overflow)
        assert code == expected, element
        assert value == (0.0 if code == zero else 2.0**-code)


@settings(max_examples=80, deadline=None, derandomize=True)
@given(
    x=tensors(),
    bits=st.integers(1, 8),
    overflow=st.sampled_from(["zero_code", "extra_zero"]),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
)
def test_agrees_with_slow_reference(x: Tensor, bits: int, overflow: str, dtype: torch.dtype) -> None:
    check(x.to(dtype), bits, overflow)


@pytest.mark.parametrize("bits", [1, 2, 4, 6, 8])
def test_is_exact_beside_every_threshold(bits: int) -> None:
    firsts = [2, *(3 << (code - 1) for code in range(1, min(2**bits, 125)))]
    near = np.array([1 / (first - 0.5) for first in firsts], dtype=np.float32)
    below, above = np.nextafter(near, np.float32(0)), np.nextafter(near, np.float32(1))
    special = np.array([0.0, -0.0, 0.5, 1.0, 2.0, 3e38, np.inf, -1.0, 1e-45, 2**-126], dtype=np.float32)
    check(torch.from_numpy(np.concatenate([below, near, above, special])), bits, "zero_code")


def test_reciprocals_of_integers_get_their_own_code() -> None:
    """Every integer below 2^16, and those around the thresholds up to 2^22."""
    around = [m + d for k in range(15, 22) for m in (2**k, 3 << (k - 1)) for d in (-2, -1, 0, 1, 2)]
    integers = torch.tensor([*range(1, 1 << 16), *around])
    x = integers.double().reciprocal().float()
    assert torch.equal((1 / x.double()).round().long(), integers)
    expected = [log_round(n) for n in integers.tolist()]
    assert make(6).quantize(x).tolist() == expected
    assert make(4).quantize(x).tolist() == [min(code, 15) for code in expected]


def test_differs_from_rounding_the_logarithm() -> None:
    """log2 puts the threshold between 1 and 1/2 at 2^−0.5; integers put it at 2/3."""
    assert make(4).quantize(torch.tensor([0.69, 0.66])).tolist() == [0, 1]


def test_range_does_not_matter() -> None:
    fitted = LogIntSoftmaxQuantizer.from_range(log_int(4), VECTOR, torch.tensor([-3.0]), torch.tensor([8.0]))
    assert (fitted.scale.item(), fitted.shift.item()) == (1.0, 0.0)


@pytest.mark.parametrize(("scale", "shift"), [(0.5, 0.0), (1.0, 0.17)])
def test_refuses_scale_and_shift(scale: float, shift: float) -> None:
    qparams = {"scale": torch.tensor([scale]), "shift": torch.tensor(shift)}
    with pytest.raises(CalibrationError, match="must be"):
        create_quantizer(log_int(4), VECTOR, qparams)
