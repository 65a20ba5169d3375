"""Block-scaled formats, against a slow conversion written from the specifications."""

from __future__ import annotations

import math
from typing import ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor

from autoq.errors import CalibrationError
from autoq.quantizers import BaseBlockScaledQuantizer, BaseQuantizer, create_quantizer, quantizer_class
from autoq.recipe import OperandConfig
from tests.contracts.quantizers import CONV_INPUT, LINEAR_INPUT, LINEAR_WEIGHT, Case, QuantizerContract
from tests.quantizers.test_float_format import nearest
from tests.quantizers.test_hadamard import CONV_WEIGHT, KEYS

BITS = {"mxfp4": 4, "mxint8": 8, "nvfp4": 4}


def config(scheme: str) -> OperandConfig:
    return OperandConfig(scheme=scheme, bits=BITS[scheme])


class TestContract(QuantizerContract):
    gradient_is_one_within = (-0.3, 0.3)
    cases: ClassVar[list[Case]] = [
        *(Case(config(scheme), LINEAR_INPUT, (2, 3, 80)) for scheme in BITS),
        *(Case(config(scheme), LINEAR_WEIGHT, (6, 80)) for scheme in BITS),
        Case(config("mxfp4"), KEYS, (2, 3, 40, 5)),
        Case(config("nvfp4"), CONV_INPUT, (2, 3, 4, 4)),
        Case(config("mxfp4"), CONV_WEIGHT, (3, 12, 2, 2)),
    ]

    def unit_ids(self, quantizer: BaseQuantizer, x: Tensor) -> Tensor:
        """Entries of a block share a scale; so do others that happen to have the same."""
        assert isinstance(quantizer, BaseBlockScaledQuantizer)
        return quantizer.steps(x).expand(x.shape).float()


def scale_by_hand(scheme: str, magnitude: float, whole: float) -> float:
    """Return a block's scale: OCP MX 1.0, section 6.3; NVIDIA's two levels."""
    if scheme == "nvfp4":
        # The reference divides in single precision, as the hardware does.
        wanted = np.float32(np.float32(magnitude) / np.float32(6)) / np.float32(whole)
        patterns = torch.arange(1, 127, dtype=torch.uint8).view(torch.float8_e4m3fn).double().tolist()
        best = min(patterns, key=lambda value: (abs(value - float(wanted)), patterns.index(value) % 2 == 0))
        return float(np.float32(best) * np.float32(whole))
    exponent = -126 if magnitude == 0 else math.floor(math.log2(magnitude)) - (2 if scheme == "mxfp4" else 0)
    return 2.0 ** max(-126, exponent)


def by_hand(scheme: str, rows: Tensor, whole: float) -> Tensor:
    element, block = quantizer_class(scheme).element, 16 if scheme == "nvfp4" else 32  # type: ignore[attr-defined]
    result = []
    for row in rows.double().tolist():
        for start in range(0, len(row), block):
            part = row[start : start + block]
            scale = scale_by_hand(scheme, max(map(abs, part)), whole)
            result += [nearest(float(np.float32(value) / np.float32(scale)), element) * scale for value in part]
    return torch.tensor(result, dtype=torch.float64).view(rows.shape).float()


@pytest.mark.parametrize("scheme", BITS)
@pytest.mark.parametrize("channels", [16, 32, 77, 96])
def test_activations_are_converted_as_specified(scheme: str, channels: int) -> None:
    generator = torch.Generator().manual_seed(channels)
    x = torch.randn(8, channels, generator=generator) * torch.logspace(-3, 3, 8).unsqueeze(1)
    x[0, :3] = 0.0
    x[1] = 0.0
    x[2] = x[2].bfloat16().float()
    bound = x.abs().amax().view(1, 1, 1)
    quantizer = quantizer_class(scheme).from_range(config(scheme), LINEAR_INPUT, -bound, bound)
    whole = float(quantizer.qparams().get("tensor_scale", torch.ones(1)))
    torch.testing.assert_close(quantizer(x.unsqueeze(0))[0], by_hand(scheme, x, whole), rtol=1e-6, atol=0)


@pytest.mark.parametrize("scheme", BITS)
def test_a_weight_by_its_own_blocks_is_converted_as_an_activation(scheme: str) -> None:
    weight = torch.randn(6, 72, generator=torch.Generator().manual_seed(3))
    quantizer_type = quantizer_class(scheme)
    bound = weight.abs().amax().view(1, 1, 1)
    dynamic = quantizer_type.from_range(config(scheme), LINEAR_INPUT, -bound, bound)
    assert isinstance(dynamic, BaseBlockScaledQuantizer)
    blocks = quantizer_type.range_shape(config(scheme), LINEAR_WEIGHT, weight.shape)
    assert blocks == (6, 72 // dynamic.block + 1)
    reach = dynamic.reaches(weight, LINEAR_WEIGHT)
    static = quantizer_type.from_range(config(scheme), LINEAR_WEIGHT, -reach, reach)
    assert torch.equal(static(weight), dynamic(weight.unsqueeze(0))[0])
    assert static.assign(weight) is None


@pytest.mark.parametrize("scheme", BITS)
def test_what_it_costs_is_said(scheme: str) -> None:
    cls, blocks = quantizer_class(scheme), 6 if scheme == "nvfp4" else 3
    assert cls.groups_of(config(scheme), LINEAR_WEIGHT, (10, 96)) == blocks
    whole = 32 if scheme == "nvfp4" else 0
    assert cls.parameter_bits(config(scheme), LINEAR_WEIGHT, (10, 96)) == 10 * blocks * 8 + whole
    assert cls.assignment_bops(config(scheme), 50 * 96, 96) == 50 * 96 * BITS[scheme]


@pytest.mark.parametrize("scheme", BITS)
def test_wrong_scales_are_refused(scheme: str) -> None:
    good = Case(config(scheme), LINEAR_WEIGHT, (4, 40)).make()
    for scale in (torch.zeros_like(good.qparams()["scale"]), torch.ones(3)):
        with pytest.raises(CalibrationError, match="scale"):
            create_quantizer(good.config, good.layout, good.qparams() | {"scale": scale})
