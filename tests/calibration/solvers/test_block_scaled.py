"""Scales of a weight's blocks: those of the specification, or the best of several."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from autoq.calibration.settings import CalibrationSettings
from autoq.calibration.solvers import solve
from autoq.quantizers import BaseBlockScaledQuantizer, BaseQuantizer
from autoq.recipe import OperandConfig
from tests.calibration.samples import SETTINGS, weight_operand

SCHEMES = ["mxfp4", "mxint8", "nvfp4"]


def solved(scheme: str, weight: Tensor, settings: CalibrationSettings) -> BaseQuantizer:
    config = OperandConfig(scheme=scheme, bits=8 if scheme == "mxint8" else 4)
    return solve(weight_operand(tuple(weight.shape), summed=True), config, weight, settings)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_an_observer_of_ranges_gives_the_scales_of_the_specification(scheme: str) -> None:
    weight = torch.randn(5, 70, generator=torch.Generator().manual_seed(0))
    quantizer = solved(scheme, weight, replace(SETTINGS, observer="min_max"))
    assert isinstance(quantizer, BaseBlockScaledQuantizer)
    reach = quantizer.reaches(weight, quantizer.layout)
    expected = quantizer.block_scales(reach, *quantizer._whole())
    assert torch.equal(quantizer.scale, expected)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_search_loses_less_in_every_block(scheme: str) -> None:
    """And its scales are such as the format has."""
    weight = torch.randn(5, 70, generator=torch.Generator().manual_seed(1))
    plain = solved(scheme, weight, replace(SETTINGS, observer="min_max"))
    found = solved(scheme, weight, replace(SETTINGS, observer="mse"))
    assert isinstance(found, BaseBlockScaledQuantizer)
    before, after = (found.in_blocks((each(weight) - weight).square(), found.layout).sum(-1) for each in (plain, found))
    assert (after <= before).all()
    if scheme != "mxint8":
        assert after.sum() < 0.95 * before.sum()
    if scheme == "nvfp4":
        assert torch.equal(found.scale.to(torch.float8_e4m3fn).float(), found.scale)
    else:
        assert torch.equal(found.scale.log2().round().exp2(), found.scale)
