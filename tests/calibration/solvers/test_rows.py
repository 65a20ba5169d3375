"""Which bounds each row of an operand gets."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from autoq.calibration import CalibrationSettings, solve
from tests.calibration.samples import (
    SHAPE,
    config,
    draw,
    operand,
    sample_of,
    weight_operand,
)


def test_min_max_spans_the_observed_range() -> None:
    sample = sample_of(operand(SHAPE), draw("outliers"))
    solved = solve(operand(SHAPE), config("uniform", 8), sample, CalibrationSettings(observer="min_max"))
    low, high = float(sample.values.min()), float(sample.values.max())
    assert float(solved.qparams()["scale"]) == pytest.approx((high - low) / 255)


def test_percentile_cuts_both_tails() -> None:
    values = (torch.arange(10_000.0).view(1, 100, 100) - 2_000)[:, torch.randperm(100)]
    described = operand((1, 100, 100))
    settings = CalibrationSettings(observer="percentile", percentile=99.0)
    solved = solve(described, config("uniform", 8), sample_of(described, values), settings).qparams()
    # 99 % of the way from either end to the other.
    assert float(solved["scale"]) == pytest.approx((7_899.01 - -1_900.01) / 255)


OBSERVED = {
    "tensor": (torch.full((1, 1, 1, 1), -1.0), torch.full((1, 1, 1, 1), 4.0)),
    "head": (torch.tensor([-1.0, -2, -3]).view(1, 3, 1, 1), torch.tensor([1.5, 2.5, 12]).view(1, 3, 1, 1)),
    "channel": (torch.tensor([-1.0, -2, -3, -4]).view(1, 1, 1, 4), torch.tensor([2.0, 4, 6, 8]).view(1, 1, 1, 4)),
}


@pytest.mark.parametrize("granularity", OBSERVED)
@pytest.mark.parametrize("observer", ["ema", "percentile"])
def test_averages_are_taken_at_their_own_resolution(observer: str, granularity: str) -> None:
    described = operand((1, 3, 20, 4), heads=True)
    sample = sample_of(described, torch.randn(4, 3, 20, 4, generator=torch.Generator().manual_seed(8)))
    observed = replace(sample, observed=OBSERVED)
    settings = CalibrationSettings(observer=observer)
    lower, upper = OBSERVED[granularity]
    solved = solve(described, config("uniform", 8, granularity=granularity), observed, settings).qparams()
    torch.testing.assert_close(solved["scale"], (upper - lower) / 255)
    torch.testing.assert_close(solved["zero_point"], (-lower / (upper - lower) * 255).round())
    logarithmic = solve(described, config("log2", 4, granularity=granularity), observed, settings).qparams()
    torch.testing.assert_close(logarithmic["scale"], upper - lower.min())


def test_static_groups_are_those_of_the_sample() -> None:
    described = operand((1, 10, 4))
    values = torch.randn(2, 10, 4, generator=torch.Generator().manual_seed(8)) * torch.tensor([1.0, 1, 9, 9])
    sample = replace(sample_of(described, values), observed=OBSERVED)
    option = config("uniform", 8, granularity="group", groups=2)
    for observer in ("min_max", "ema"):
        solved = solve(described, option, sample, CalibrationSettings(observer=observer)).qparams()["scale"].flatten()
        for group in range(2):
            part = values[..., 2 * group : 2 * group + 2]
            assert float(solved[group]) == pytest.approx(float(part.max() - part.min()) / 255)
    settings = CalibrationSettings(observer="percentile", percentile=75.0)
    cut = solve(described, option, sample, settings).qparams()["scale"].flatten()
    for group in range(2):
        low, high = torch.quantile(values[..., 2 * group : 2 * group + 2], torch.tensor([0.25, 0.75]))
        assert float(cut[group]) == pytest.approx(float(high - low) / 255)


def test_weights_are_one_batch() -> None:
    weight = torch.randn(5, 200, generator=torch.Generator().manual_seed(9))
    option = config("uniform", 8, granularity="channel")

    def scales(observer: str) -> Tensor:
        settings = CalibrationSettings(observer=observer, percentile=95.0)
        return solve(weight_operand((5, 200)), option, weight, settings).qparams()["scale"].flatten()

    span = weight.amax(1) - weight.amin(1)
    torch.testing.assert_close(scales("min_max"), span / 255)
    torch.testing.assert_close(scales("ema"), span / 255)
    low, high = torch.quantile(weight, torch.tensor([0.05, 0.95]), dim=1)
    torch.testing.assert_close(scales("percentile"), (high - low) / 255)
