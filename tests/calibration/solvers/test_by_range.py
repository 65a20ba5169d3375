"""Ranges of least squared error against brute force."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from autoq.calibration import CalibrationSettings, solve
from autoq.calibration.observers import OmseObserver
from autoq.calibration.solvers.by_range import least_error_range, search_range
from autoq.calibration.solvers.sorted_rows import SortedRows
from autoq.quantizers import OperandLayout, create_quantizer
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


@pytest.mark.parametrize("kind", ["normal", "heavy", "positive"])
@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("length", [60, 20_000])
def test_omse_takes_the_best_of_ninety(length: int, bits: int, kind: str) -> None:
    """By quantizing the values with every candidate; lengths on either side of where thresholds are looked up."""
    normal = torch.randn(2, length, generator=torch.Generator().manual_seed(1))
    rows = {"normal": normal, "heavy": normal.sign() * normal.abs() ** 4, "positive": normal.exp()}[kind]
    config = OperandConfig(scheme="uniform", bits=bits)
    candidates = OmseObserver.candidates(rows, rows.amin(1), rows.amax(1))
    assert candidates is not None
    assert candidates[0].shape == (90, 2)
    lower, upper = least_error_range(rows, config, candidates, lambda: SortedRows.of_rows(rows))
    for row, low, high in zip(rows, lower.tolist(), upper.tolist(), strict=True):

        def error(low: float, high: float, row: Tensor = row) -> float:
            low, high = min(low, 0.0), max(high, 0.0)
            scale = (high - low) / (2**bits - 1)
            parameters = {"scale": torch.tensor([scale]), "zero_point": torch.tensor([-low / scale]).round()}
            quantizer = create_quantizer(config, OperandLayout(1, -1), parameters)
            return float((quantizer(row).double() - row).square().sum())

        shrinks = [1 - 0.01 * step for step in range(90)]
        every = [error(shrink * float(row.min()), shrink * float(row.max())) for shrink in shrinks]
        assert error(low, high) == pytest.approx(min(every), rel=1e-4)
        assert high == pytest.approx(shrinks[every.index(min(every))] * float(row.max()), rel=1e-5)
        assert low == pytest.approx(shrinks[every.index(min(every))] * float(row.min()), rel=1e-5)
