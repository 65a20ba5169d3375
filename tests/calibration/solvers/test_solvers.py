"""What holds for every solver, and which solver a scheme has."""

from __future__ import annotations

import pytest
import torch

from autoq.calibration import OBSERVERS, CalibrationSettings, solve
from autoq.errors import CalibrationError, RecipeError
from tests.calibration.samples import (
    SETTINGS,
    SHAPE,
    config,
    operand,
    sample_of,
)


@pytest.mark.parametrize("scheme", ["uniform", "adalog", "log2"])
@pytest.mark.parametrize("observer", OBSERVERS)
def test_heads_are_solved_one_by_one(scheme: str, observer: str) -> None:
    described = operand((1, 3, 20, 4), heads=True)
    values = (
        torch.rand(4, 3, 20, 4, generator=torch.Generator().manual_seed(5)) * torch.tensor([0.1, 1, 8])[:, None, None]
    )
    settings = CalibrationSettings(observer=observer)
    option = config(scheme, 4, granularity="head", log_base_numerator=37 if scheme == "adalog" else None)
    solved = solve(described, option, sample_of(described, values), settings).qparams()["scale"]
    assert solved.shape == (1, 3, 1, 1)
    alone = operand((1, 1, 20, 4), heads=True)
    for head in range(3):
        part = values[:, head : head + 1]
        expected = solve(alone, option, sample_of(alone, part), settings).qparams()["scale"]
        torch.testing.assert_close(solved[:, head], expected[:, 0], rtol=0.02, atol=0)


@pytest.mark.parametrize("observer", OBSERVERS)
@pytest.mark.parametrize("scheme", ["uniform", "log2", "adalog", "instance_groups"])
@pytest.mark.parametrize("value", [0.0, 2.5, -1.0])
def test_constant_operands_are_solved(observer: str, scheme: str, value: float) -> None:
    sample = sample_of(operand(SHAPE), torch.full((2, *SHAPE[1:]), value))
    option = config(scheme, 3, groups=4 if scheme == "instance_groups" else 1)
    solved = solve(operand(SHAPE), option, sample, CalibrationSettings(observer=observer))
    assert torch.isfinite(solved(sample.values)).all()
    if scheme in ("uniform", "instance_groups"):
        torch.testing.assert_close(solved(sample.values), sample.values, rtol=0.01, atol=1e-6)


def test_what_does_not_fit_is_refused() -> None:
    described = operand((1, 3, 20, 4), heads=True)
    sample = sample_of(described, torch.rand(2, 3, 20, 4))
    with pytest.raises(CalibrationError, match="cannot have instance-aware groups"):
        solve(described, config("instance_groups", 4, groups=2), sample, SETTINGS)
    with pytest.raises(RecipeError, match="unknown quantization scheme 'unifrom'"):
        solve(described, config("unifrom", 4), sample, SETTINGS)
