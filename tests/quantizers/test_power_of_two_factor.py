"""Power-of-two factors against FQ-ViT's formula, element by element."""

from __future__ import annotations

from dataclasses import dataclass, replace
from fractions import Fraction
from typing import ClassVar

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from autoq.errors import CalibrationError
from autoq.quantizers import BaseQuantizer, OperandLayout, PowerOfTwoFactorQuantizer, create_quantizer
from autoq.recipe import OperandConfig
from tests.contracts.quantizers import CONV_INPUT, LINEAR_INPUT, LINEAR_WEIGHT, Case, QuantizerContract
from tests.quantizers.samples import tensors

VECTORS = OperandLayout(ndim=2, channel_axis=-1)


def factors(bits: int) -> OperandConfig:
    return OperandConfig(scheme="power_of_two_factor", bits=bits)


@dataclass(frozen=True)
class FactorCase(Case):
    """Channels take the factors 1, 2, 4, 8 in turn, which no range says."""

    def make_between(self, lower: Tensor, upper: Tensor) -> BaseQuantizer:
        plain = super().make_between(lower, upper)
        axis = self.layout.channel_axis
        shape = [1] * self.layout.ndim
        shape[axis] = self.shape[axis]
        exponent = (torch.arange(self.shape[axis]) % 4).float().reshape(shape)
        return create_quantizer(self.config, self.layout, plain.qparams() | {"exponent": exponent})


class TestContract(QuantizerContract):
    gradient_is_one_within = (0.01, 0.1)
    cases: ClassVar[list[Case]] = [
        Case(factors(4)),
        FactorCase(factors(1)),
        FactorCase(factors(4)),
        FactorCase(factors(8)),
        FactorCase(factors(4), CONV_INPUT, (4, 6, 5, 3)),
        FactorCase(factors(5), LINEAR_WEIGHT, (6, 10)),
    ]

    def unit_ids(self, quantizer: BaseQuantizer, x: Tensor) -> Tensor:
        exponent = quantizer.exponent
        assert isinstance(exponent, Tensor)
        return torch.arange(exponent.numel()).reshape(exponent.shape).expand(x.shape)


@settings(max_examples=80, deadline=None, derandomize=True)
@given(x=tensors(), bits=st.integers(1, 8), dtype=st.sampled_from([torch.float32, torch.bfloat16]))
def test_agrees_with_slow_reference(x: Tensor, bits: int, dtype: torch.dtype) -> None:
    x = torch.nan_to_num(x.to(dtype)).reshape(12, 4)
    lower, upper = (torch.quantile(x.float(), q).reshape(1, 1) for q in (0.1, 0.95))
    plain = PowerOfTwoFactorQuantizer.from_range(factors(bits), VECTORS, lower, upper)
    exponents = [2.0, 0.0, 3.0, 1.0]
    quantizer = create_quantizer(
        factors(bits), VECTORS, plain.qparams() | {"exponent": torch.tensor(exponents).reshape(1, 4)}
    )
    s, zero_point = plain.scale.item(), int(plain.zero_point)
    codes, values = quantizer.quantize(x), quantizer(x)
    assert torch.equal(values, quantizer(x.clone().requires_grad_()).detach())
    for token in range(12):
        for channel, exponent in enumerate(exponents):
            step = Fraction(s) * 2 ** int(exponent)
            quotient = Fraction(x[token, channel].item()) / step
            expected = min(max(round(quotient) + zero_point, 0), 2**bits - 1)
            code = int(codes[token, channel])
            doubtful = abs(quotient - (quotient // 1 + Fraction(1, 2))) <= (abs(quotient) + 1) * Fraction(2) ** -22
            assert code == expected or (doubtful and abs(code - expected) == 1)
            exact = np.float32(code - zero_point) * np.float32(float(step))
            assert values[token, channel].item() == torch.tensor(exact).to(dtype).item()


@pytest.mark.parametrize("bits", [1, 4, 8])
def test_range_gives_the_published_scale_and_zero_point(bits: int) -> None:
    lower, upper = torch.tensor([[[-1.0]]]), torch.tensor([[[3.0]]])
    quantizer = PowerOfTwoFactorQuantizer.from_range(factors(bits), LINEAR_INPUT, lower, upper)
    greatest_scale = 4 / (2**bits - 1)
    assert quantizer.scale.item() == pytest.approx(greatest_scale / 8)
    assert quantizer.zero_point.item() == round(1 / greatest_scale)
    assert quantizer.exponent.flatten().tolist() == [3.0]


def test_bounds_of_many_channels_are_joined() -> None:
    lower, upper = torch.tensor([[[-1.0, 0.5, -3.0]]]), torch.tensor([[[1.0, 12.0, 2.0]]])
    quantizer = PowerOfTwoFactorQuantizer.from_range(factors(4), LINEAR_INPUT, lower, upper)
    assert quantizer.scale.shape == (1, 1, 1)
    assert quantizer.scale.item() * 8 == pytest.approx(1.0)


def test_values_are_whole_multiples_of_the_scale() -> None:
    case = FactorCase(factors(6), shape=(3, 5, 9), lower=-2.0, upper=5.0)
    quantizer, scale = case.make(), case.make().qparams()["scale"]
    multiples = quantizer(case.sample()).double() / scale
    assert (multiples - multiples.round()).abs().max() < 1e-4
    assert len(multiples.round().unique()) > 20


def test_clipping_depends_on_the_factor() -> None:
    case = FactorCase(factors(4), shape=(1, 1, 4), lower=0.0, upper=30.0)  # a range of 0..15, from one unit
    y = case.make()(torch.full((1, 1, 4), 1e6)).flatten()
    torch.testing.assert_close(y, torch.tensor([15.0, 30.0, 60.0, 120.0]) / 8)


def test_refuses_wrong_parameters() -> None:
    good = FactorCase(factors(4)).make().qparams()
    wrong = {
        "scale must have shape": {"scale": torch.ones(1, 1, 12)},
        "scale must be positive": {"scale": torch.zeros(1, 1, 1)},
        "zero_point must be a whole": {"zero_point": torch.full((1, 1, 1), 0.5)},
        "zero_point must be a whole number in 0..15": {"zero_point": torch.full((1, 1, 1), 16.0)},
        "all but the channels": {"exponent": torch.zeros(1, 7, 1)},
        r"whole numbers in 0\.\.3": {"exponent": torch.full((1, 1, 12), 4.0)},
    }
    for complaint, change in wrong.items():
        with pytest.raises(CalibrationError, match=complaint):
            create_quantizer(factors(4), LINEAR_INPUT, good | change)
    assert replace(FactorCase(factors(4)), shape=(1, 2, 12)).make().qparams().keys() == good.keys()
