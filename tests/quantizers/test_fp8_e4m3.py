"""FP8 under a scale, against torch's own type."""

from __future__ import annotations

from typing import ClassVar

import pytest
import torch

from autoq.errors import CalibrationError
from autoq.quantizers import FP8E4M3Quantizer, OperandLayout
from autoq.recipe import OperandConfig
from tests.contracts.quantizers import ATTENTION_MAP, CONV_INPUT, LINEAR_INPUT, LINEAR_WEIGHT, Case, QuantizerContract


def config(**fields: object) -> OperandConfig:
    return OperandConfig.model_validate({"scheme": "fp8_e4m3", "bits": 8} | fields)


class TestContract(QuantizerContract):
    gradient_is_one_within = (-0.4, 0.4)
    cases: ClassVar[list[Case]] = [
        Case(config(), LINEAR_INPUT),
        Case(config(granularity="channel"), LINEAR_WEIGHT, (6, 16)),
        Case(config(granularity="head"), ATTENTION_MAP, (2, 3, 5, 5), 0.0, 1.0),
        Case(config(), CONV_INPUT, (2, 3, 8, 8)),
    ]


def test_values_are_those_of_the_type_times_the_scale() -> None:
    x = torch.randn(64, 32, generator=torch.Generator().manual_seed(0))
    layout = OperandLayout(ndim=2, channel_axis=-2, instances_per_image=0)
    reach = x.abs().amax(1, keepdim=True)
    quantizer = FP8E4M3Quantizer.from_range(config(granularity="channel"), layout, -reach, reach)
    scale = reach / 448
    assert torch.equal(quantizer(x), (x / scale).clamp(-448, 448).to(torch.float8_e4m3fn).float() * scale)


def test_another_width_is_refused_and_canonically_eight() -> None:
    one = torch.ones(1, 1, 1)
    with pytest.raises(CalibrationError, match="the format has 8 bits, not 4"):
        FP8E4M3Quantizer.from_range(config(bits=4), LINEAR_INPUT, -one, one)
    assert FP8E4M3Quantizer.canonical_config(config(bits=4), LINEAR_INPUT, (1, 5, 8)) == config()
