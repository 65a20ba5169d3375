"""Solved parameters against brute force."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from autoq.calibration import OBSERVERS, CalibrationSettings, solve
from autoq.calibration.solvers.range_search import search_range
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
    # 99 % of the way from either end to the other.
    assert float(solved["scale"]) == pytest.approx((7_899.01 - -1_900.01) / 255)


OBSERVED = {
    "tensor": (torch.full((1, 1, 1, 1), -1.0), torch.full((1, 1, 1, 1), 4.0)),
    "head": (torch.tensor([-1.0, -2, -3]).view(1, 3, 1, 1), torch.tensor([1.5, 2.5, 12]).view(1, 3, 1, 1)),
    "channel": (torch.tensor([-1.0, -2, -3, -4]).view(1, 1, 1, 4), torch.tensor([2.0, 4, 6, 8]).view(1, 1, 1, 4)),
}


@pytest.mark.parametrize("granularity", OBSERVED)
@pytest.mark.parametrize("observer", ["ema", "percentile"])
def test_averages_are_taken_at_their_own_resolution(observer: Any, granularity: str) -> None:
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

    def scales(observer: Any) -> Tensor:
        settings = CalibrationSettings(observer=observer, percentile=95.0)
        return solve(weight_operand((5, 200)), option, weight, settings).qparams()["scale"].flatten()

    span = weight.amax(1) - weight.amin(1)
    torch.testing.assert_close(scales("min_max"), span / 255)
    torch.testing.assert_close(scales("ema"), span / 255)
    low, high = torch.quantile(weight, torch.tensor([0.05, 0.95]), dim=1)
    torch.testing.assert_close(scales("percentile"), (high - low) / 255)


def fake_quantized_error(values: Tensor, low: float, high: float, bits: int) -> float:
    """Squared error of an affine quantizer between two bounds, widened to zero."""
    low, high = min(low, 0.0), max(high, 0.0)
    scale = (high - low) / (2**bits - 1)
    return uniform_reference(values, scale, round(-low / scale), bits)


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("kind", ["normal", "gelu", "heavy", "outliers"])
def test_omse_shrinks_the_range_of_all_images(kind: str, bits: int) -> None:
    sample = sample_of(operand(SHAPE), draw(kind))
    wider = replace(sample, lower=1.5 * sample.lower, upper=1.25 * sample.upper)
    found = squared_error(
        solve(operand(SHAPE), config("uniform", bits), wider, CalibrationSettings(observer="omse")), sample
    )
    low, high, values = float(wider.lower.min()), float(wider.upper.max()), sample.values.flatten()
    every = [fake_quantized_error(values, (1 - i / 100) * low, (1 - i / 100) * high, bits) for i in range(90)]
    assert found == pytest.approx(min(every), rel=1e-3)


def test_omse_of_weights_is_by_row() -> None:
    weight = torch.randn(4, 150, generator=torch.Generator().manual_seed(4)) ** 3
    option = config("uniform", 3, granularity="channel")
    solved = solve(weight_operand((4, 150)), option, weight, CalibrationSettings(observer="omse"))
    for row, found in zip(weight, (solved(weight) - weight).square().sum(1).tolist(), strict=True):
        shrinks = [1 - i / 100 for i in range(90)]
        every = [fake_quantized_error(row, s * float(row.min()), s * float(row.max()), 3) for s in shrinks]
        assert found == pytest.approx(min(every), rel=1e-3)


@pytest.mark.parametrize("bits", [3, 4, 8])
@pytest.mark.parametrize("kind", ["normal", "heavy", "outliers"])
def test_best_percentile_is_the_best_of_three(kind: str, bits: int) -> None:
    sample = sample_of(operand(SHAPE), draw(kind))
    settings = CalibrationSettings(observer="best_percentile")
    solved = solve(operand(SHAPE), config("uniform", bits), sample, settings)
    values = sample.values.flatten().double()
    every = []
    for share in (0.999, 0.9999, 0.99999):
        low, high = (float(torch.quantile(values, part)) for part in (1 - share, share))
        every.append(fake_quantized_error(values, low, high, bits))
    assert len({round(error, 6) for error in every}) == 3
    assert squared_error(solved, sample) == pytest.approx(min(every), rel=1e-3)


@pytest.mark.parametrize("observer", ["omse", "best_percentile"])
def test_logarithms_take_the_best_of_the_candidates(observer: Any) -> None:
    sample = sample_of(operand(SHAPE), draw("positive") ** 2)
    settings = CalibrationSettings(observer=observer)
    found = squared_error(solve(operand(SHAPE), config("log2", 3), sample, settings), sample)
    values = sample.values.flatten().double()
    tops = [float(torch.quantile(values, share)) for share in (0.999, 0.9999, 0.99999)]
    if observer == "omse":
        tops = [(1 - i / 100) * float(values.max()) for i in range(90)]
    levels = torch.cat([2.0 ** -torch.arange(7.0), torch.zeros(1)])
    every = []
    for top in tops:
        code = torch.where(values > 0, -torch.log2(values / top), torch.inf).round().clamp(0, 7).long()
        every.append(float((levels[code] * top - values).square().sum()))
    assert found <= 1.01 * min(every)
    assert found < 0.99 * every[0] or min(every) == every[0]


@pytest.mark.parametrize("scheme", ["uniform", "adalog", "log2"])
def test_fpcs_is_mse_for_one_operand(scheme: str) -> None:
    sample = sample_of(operand(SHAPE, "gelu"), draw("gelu"))
    first, second = (
        solve(operand(SHAPE, "gelu"), config(scheme, 4), sample, CalibrationSettings(observer=observer)).qparams()
        for observer in ("mse", "fpcs")
    )
    for name in first:
        torch.testing.assert_close(first[name], second[name], rtol=0, atol=0)


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
