"""Nothing of Log-Int-Softmax is solved."""

from __future__ import annotations

import torch

from autoq.calibration import OBSERVERS, CalibrationSettings, solve
from autoq.recipe import OperandConfig
from tests.calibration.samples import operand, sample_of


def test_log_int_softmax_is_the_same_whatever_the_values() -> None:
    described = operand((1, 3, 20, 20), "softmax", heads=True)
    sample = sample_of(described, torch.rand(2, 3, 20, 20) * 0.3)
    for observer in OBSERVERS:
        option = OperandConfig(scheme="log_int_softmax", bits=4)
        qparams = solve(described, option, sample, CalibrationSettings(observer)).qparams()
        assert qparams["scale"].flatten().tolist() == [1.0]
        assert qparams["shift"].item() == 0.0
