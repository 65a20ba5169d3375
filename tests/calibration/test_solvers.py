"""Solved parameters against brute force."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from autoq.calibration import OBSERVERS, CalibrationSettings, solve
from autoq.calibration.range_search import search_range
from autoq.errors import CalibrationError, RecipeError
from autoq.recipe import OperandConfig
from tests.calibration.samples import operand, sample_of, squared_error, uniform_reference, weight_operand

SETTINGS = CalibrationSettings()
SHAPE = (1, 64, 24)


def config(scheme: str, bits: int, **fields: object) -> OperandConfig:
    return OperandConfig.model_validate({"scheme": scheme, "bits": bits} | fields)


def draw(kind: str) -> Tensor:
    generator = torch.Generator().manual_seed(3)
    normal = torch.randn(4, *SHAPE[1:], generator=generator)
    return {
        "normal": normal,
        "gelu": torch.nn.functional.gelu(normal),
        "heavy": normal.sign() * normal.abs() ** 3,
        "positive": normal.exp(),
        "outliers": torch.where(torch.rand(normal.shape, generator=generator) > 0.999, 30 * normal.abs(), normal),
    }[kind]


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


@pytest.mark.parametrize("bits", [2, 3, 4, 6, 8])
@pytest.mark.parametrize("producer", ["softmax", "gelu"])
def test_adalog_base_is_the_best_of_all(producer: str, bits: int) -> None:
    values = draw("normal").mul(3).softmax(-1) if producer == "softmax" else draw("gelu")
    described, sample = operand(SHAPE, producer), sample_of(operand(SHAPE), values)  # type: ignore[arg-type]
    fitted = squared_error(solve(described, config("adalog", bits), sample, SETTINGS), sample)
    every = [
        squared_error(solve(described, config("adalog", bits, log_base_numerator=base), sample, SETTINGS), sample)
        for base in range(10, 138)
    ]
    assert fitted <= 1.02 * min(every)


def test_adalog_scale_of_softmax_is_one() -> None:
    sample = sample_of(operand(SHAPE), draw("normal").softmax(-1))
    solved = solve(operand(SHAPE, "softmax"), config("adalog", 4), sample, SETTINGS).qparams()
    assert float(solved["scale"]) == 1.0
    assert float(solved["shift"]) == 0.0


@pytest.mark.parametrize("scheme", ["uniform", "adalog", "log2"])
@pytest.mark.parametrize("observer", OBSERVERS)
def test_heads_are_solved_one_by_one(scheme: str, observer: str) -> None:
    described = operand((1, 3, 20, 4), heads=True)
    values = (
        torch.rand(4, 3, 20, 4, generator=torch.Generator().manual_seed(5)) * torch.tensor([0.1, 1, 8])[:, None, None]
    )
    settings = CalibrationSettings(observer=observer)  # type: ignore[arg-type]
    option = config(scheme, 4, granularity="head", log_base_numerator=37 if scheme == "adalog" else None)
    solved = solve(described, option, sample_of(described, values), settings).qparams()["scale"]
    assert solved.shape == (1, 3, 1, 1)
    alone = operand((1, 1, 20, 4), heads=True)
    for head in range(3):
        part = values[:, head : head + 1]
        expected = solve(alone, option, sample_of(alone, part), settings).qparams()["scale"]
        torch.testing.assert_close(solved[:, head], expected[:, 0], rtol=0.02, atol=0)


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
    # The 9,900th value from either end.
    assert float(solved["scale"]) == pytest.approx((7_899 - -1_900) / 255)


@pytest.mark.parametrize("observer", OBSERVERS)
@pytest.mark.parametrize("scheme", ["uniform", "log2", "adalog", "instance_groups"])
@pytest.mark.parametrize("value", [0.0, 2.5, -1.0])
def test_constant_operands_are_solved(observer: str, scheme: str, value: float) -> None:
    sample = sample_of(operand(SHAPE), torch.full((2, *SHAPE[1:]), value))
    option = config(scheme, 3, groups=4 if scheme == "instance_groups" else 1)
    solved = solve(operand(SHAPE), option, sample, CalibrationSettings(observer=observer))  # type: ignore[arg-type]
    assert torch.isfinite(solved(sample.values)).all()
    if scheme in ("uniform", "instance_groups"):
        torch.testing.assert_close(solved(sample.values), sample.values, rtol=0.01, atol=1e-6)


def test_static_groups_are_solved_one_by_one() -> None:
    weight = torch.randn(6, 10, generator=torch.Generator().manual_seed(6))
    weight[:, 5:] *= 20
    option = config("uniform", 4, granularity="group", groups=2)
    solved = solve(weight_operand((6, 10)), option, weight, SETTINGS)
    by_channel = config("uniform", 4, granularity="channel")
    for part in (slice(0, 5), slice(5, 10)):
        alone = solve(weight_operand((6, 5)), by_channel, weight[:, part], SETTINGS)
        torch.testing.assert_close(solved(weight)[:, part], alone(weight[:, part]))


def test_generic_range_search_agrees_with_the_closed_form() -> None:
    described, sample = operand(SHAPE), sample_of(operand(SHAPE), draw("heavy"))
    option = config("uniform", 4)
    closed = squared_error(solve(described, option, sample, SETTINGS), sample)
    rows = sample.values.reshape(1, -1)
    lower, upper = search_range(rows, option, rows.amin(1), rows.amax(1), 2048)
    steps = 15
    scale = float((upper - lower) / steps)
    generic = uniform_reference(rows.flatten(), scale, round(-float(lower) / scale), 4)
    assert closed <= generic * 1.01
    assert generic <= closed * 1.3


def test_bfloat16_weights_are_solved_in_float32() -> None:
    weight = torch.randn(8, 40, generator=torch.Generator().manual_seed(7)).bfloat16()
    solved = solve(weight_operand((8, 40)), config("uniform", 8, granularity="channel"), weight, SETTINGS)
    assert solved.qparams()["scale"].dtype == torch.float32
    assert solved(weight).dtype == torch.bfloat16


def test_what_does_not_fit_is_refused() -> None:
    described = operand((1, 3, 20, 4), heads=True)
    sample = sample_of(described, torch.rand(2, 3, 20, 4))
    with pytest.raises(CalibrationError, match="cannot have instance-aware groups"):
        solve(described, config("instance_groups", 4, groups=2), sample, SETTINGS)
    with pytest.raises(RecipeError, match="unknown quantization scheme 'unifrom'"):
        solve(described, config("unifrom", 4), sample, SETTINGS)
