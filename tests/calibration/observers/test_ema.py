"""Moving averages of ranges."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from autoq.calibration import CalibrationSettings
from autoq.calibration.observers import (
    BaseObserver,
    EmaObserver,
)


def observe(observer: BaseObserver, seen: list[Tensor]) -> tuple[Tensor, Tensor]:
    for batch in seen:
        observer.update(batch)
    return observer.bounds()


def test_the_averaging_constant_weighs_the_new_batch() -> None:
    observer = EmaObserver(())
    observe(observer, [torch.tensor([0.0, 1.0]), torch.tensor([-10.0, 101.0])])
    assert [float(bound) for bound in observer.bounds()] == pytest.approx([-0.1, 2.0])


def test_settings_choose_the_constant() -> None:
    assert EmaObserver.from_settings((-1,), CalibrationSettings(averaging_constant=0.25)).averaging_constant == 0.25
