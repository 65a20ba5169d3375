"""Scale and zero point of uniform quantizers against brute force."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from autoq.calibration import CalibrationSettings, solve
from autoq.recipe import OperandConfig
from tests.calibration.samples import (
    SETTINGS,
    SHAPE,
    config,
    draw,
    operand,
    sample_of,
    squared_error,
    uniform_reference,
    weight_operand,
)


def brute_force(values: Tensor, bits: int) -> float:
    """Least error over a fine grid of lower and upper bounds."""
    steps = 2**bits - 1
    low, high = min(float(values.min()), 0.0), max(float(values.max()), 0.0)
    fractions = torch.linspace(0.02, 1, 40)
    least = float("inf")
    tried = set()
    for lower in (fractions * low).tolist() if low < 0 else [0.0]:
        for upper in (fractions * high).tolist():
            scale = (upper - lower) / steps
            zero_point = round(-lower / scale)
            if (scale, zero_point) in tried:
                continue
            tried.add((scale, zero_point))
            rounded = ((values / scale).round() + zero_point).clamp(0, steps)
            least = min(least, float(((rounded - zero_point) * scale - values).square().sum()))
    return least


@pytest.mark.parametrize("bits", [2, 3, 4, 6, 8])
@pytest.mark.parametrize("kind", ["normal", "gelu", "heavy", "positive", "outliers"])
def test_uniform_search_is_as_good_as_brute_force(kind: str, bits: int) -> None:
    described, sample = operand(SHAPE), sample_of(operand(SHAPE), draw(kind))
    found = squared_error(solve(described, config("uniform", bits), sample, SETTINGS), sample)
    assert found <= 1.02 * brute_force(sample.values.flatten(), bits)


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_uniform_search_of_weights_is_as_good_as_brute_force(bits: int) -> None:
    weight = torch.randn(12, 300, generator=torch.Generator().manual_seed(4)) * torch.linspace(0.1, 3, 12).unsqueeze(1)
    solved = solve(weight_operand((12, 300)), config("uniform", bits, granularity="channel"), weight, SETTINGS)
    found = (solved(weight) - weight).square().sum(1)
    expected = torch.tensor([brute_force(row, bits) for row in weight])
    assert float((found / expected).mean()) < 1.03


@pytest.mark.parametrize("bits", [1, 2, 5])
def test_symmetric_search_is_as_good_as_brute_force(bits: int) -> None:
    sample = sample_of(operand(SHAPE), draw("heavy"))
    found = squared_error(solve(operand(SHAPE), config("uniform", bits, symmetric=True), sample, SETTINGS), sample)
    reach = float(sample.values.abs().max())
    zero_point = 0.5 if bits == 1 else 2.0 ** (bits - 1)
    scales = (torch.linspace(0.01, 1, 200) * 2 * reach / (2**bits - 1)).tolist()
    least = min(uniform_reference(sample.values.flatten(), scale, zero_point, bits) for scale in scales)
    assert found <= 1.02 * least


def test_static_groups_are_solved_one_by_one() -> None:
    weight = torch.randn(6, 10, generator=torch.Generator().manual_seed(6))
    weight[:, 5:] *= 20
    option = config("uniform", 4, granularity="group", groups=2)
    solved = solve(weight_operand((6, 10)), option, weight, SETTINGS)
    by_channel = config("uniform", 4, granularity="channel")
    for part in (slice(0, 5), slice(5, 10)):
        alone = solve(weight_operand((6, 5)), by_channel, weight[:, part], SETTINGS)
        torch.testing.assert_close(solved(weight)[:, part], alone(weight[:, part]))


def test_bfloat16_weights_are_solved_in_float32() -> None:
    weight = torch.randn(8, 40, generator=torch.Generator().manual_seed(7)).bfloat16()
    solved = solve(weight_operand((8, 40)), config("uniform", 8, granularity="channel"), weight, SETTINGS)
    assert solved.qparams()["scale"].dtype == torch.float32
    assert solved(weight).dtype == torch.bfloat16


@pytest.mark.parametrize("observer", ["min_max", "best_percentile"])
def test_ranges_as_they_are(observer: str) -> None:
    """Without zero, codes spread between a channel's own bounds, of the three percentiles those of least error."""
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(4, 3000, generator=generator) + torch.tensor([[-9.0], [0.0], [5.0], [40.0]])
    settings = CalibrationSettings(observer=observer, include_zero=False)
    option = OperandConfig(scheme="uniform", bits=4, granularity="channel")
    found = solve(weight_operand((4, 3000)), option, values, settings).qparams()
    for row, scale, zero_point in zip(values, found["scale"].flatten(), found["zero_point"].flatten(), strict=True):
        errors = []
        for percentile in (0.999, 0.9999, 0.99999) if observer == "best_percentile" else (1.0,):
            low, high = (row.double().quantile(q).float() for q in (1 - percentile, percentile))
            step = (high - low) / 15
            zero = torch.round(-low / step)
            rounded = ((torch.round(row / step) + zero).clamp(0, 15) - zero) * step
            errors.append(((rounded - row).square().sum().item(), step.item(), zero.item()))
        _, step, zero = min(errors)
        assert scale.item() == pytest.approx(step, rel=1e-5)
        assert zero_point.item() == zero
    assert found["zero_point"].min() < 0
    assert found["zero_point"].max() > 15
