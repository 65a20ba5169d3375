"""The search by the error of the layer's output."""

from __future__ import annotations

import pytest
import torch

from autoq.calibration import Bank, CalibrationSettings, capture, solve
from autoq.calibration.fpcs.settings import FpcsSettings
from autoq.calibration.observers import FpcsObserver
from tests.calibration.samples import SHAPE, block_model, config, draw, images, operand, sample_of


@pytest.mark.parametrize("scheme", ["uniform", "adalog", "log2"])
def test_fpcs_is_mse_for_one_operand(scheme: str) -> None:
    sample = sample_of(operand(SHAPE, "gelu"), draw("gelu"))
    first, second = (
        solve(operand(SHAPE, "gelu"), config(scheme, 4), sample, CalibrationSettings(observer=observer)).qparams()
        for observer in ("mse", "fpcs")
    )
    for name in first:
        torch.testing.assert_close(first[name], second[name], rtol=0, atol=0)


def test_it_makes_the_error_of_the_layer_less_than_mse_does() -> None:
    """Channels after GELU that are loud weigh in the layer's error, and not in the weight's own."""
    model, data = block_model(), images(16)
    weight = model.traced.weight("fc2", "weight")
    x = capture(model, [data], CalibrationSettings(), operands=[("fc2", "input")])["fc2", "input"].values
    option = config("uniform", 4, granularity="channel")
    errors = {}
    for observer in ("mse", "fpcs"):
        bank = Bank(model, data, CalibrationSettings(observer=observer, fpcs=FpcsSettings(rounds=0)), {})
        change = bank.quantizer("fc2", "weight", option)(weight).detach() - weight.detach()
        errors[observer] = (float((x @ change.mT).square().sum()), float(change.square().sum()))
    assert FpcsObserver.by_layer_output
    assert errors["fpcs"][0] < 0.5 * errors["mse"][0]
    assert errors["fpcs"][1] > errors["mse"][1]
