"""Bases and scales of logarithmic quantizers against brute force."""

from __future__ import annotations

import pytest
import torch

from autoq.calibration import CalibrationSettings, solve
from autoq.calibration.solvers.logarithmic import log_class, log_errors
from autoq.calibration.solvers.tables import LogTable
from autoq.quantizers import OperandLayout, quantizer_class
from autoq.recipe import OperandConfig
from tests.calibration.samples import (
    SETTINGS,
    SHAPE,
    config,
    draw,
    operand,
    sample_of,
    squared_error,
)


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


@pytest.mark.parametrize("observer", ["omse", "best_percentile"])
def test_logarithms_take_the_best_of_the_candidates(observer: str) -> None:
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


@pytest.mark.parametrize("scheme", ["adalog", "log2", "log_sqrt2"])
@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("overflow", ["zero_code", "extra_zero"])
def test_log_errors_match_the_quantizers(scheme: str, bits: int, overflow: str) -> None:
    values = torch.rand(2, 4000, generator=torch.Generator().manual_seed(2)) ** 6
    config = OperandConfig.model_validate({"scheme": scheme, "bits": bits, "overflow": overflow})
    scales = torch.tensor([[1.0, 0.6], [0.8, 1.0]])
    errors = log_errors(LogTable.of_rows(values, 4096), scales, config)
    layout = OperandLayout(ndim=2, channel_axis=-2)
    numerators = log_class(scheme).log_base_numerators
    for base in (0, 27, 64, 127) if len(numerators) > 1 else (0,):
        numerator = numerators[base] if len(numerators) > 1 else None
        by_row = config.model_copy(update={"granularity": "channel", "log_base_numerator": numerator})
        for k in range(2):
            upper = scales[:, k : k + 1]
            quantizer = quantizer_class(scheme).from_range(by_row, layout, torch.zeros_like(upper), upper)
            expected = (quantizer(values) - values).double().square().sum(1)
            torch.testing.assert_close(errors[base, :, k], expected, rtol=0.02, atol=0)
