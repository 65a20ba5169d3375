"""Moving averages of quantiles."""

from __future__ import annotations

import pytest
import torch

from autoq.calibration import CalibrationSettings
from autoq.calibration.observers import (
    PercentileObserver,
)


def test_settings_choose_percentile_and_constant() -> None:
    settings = CalibrationSettings(percentile=75.0, averaging_constant=0.5)
    observer = PercentileObserver.from_settings((), settings)
    for batch in (torch.arange(5.0), torch.arange(5.0) + 2):
        observer.update(batch)
    assert [float(bound) for bound in observer.bounds()] == pytest.approx([2.0, 4.0])
    assert PercentileObserver.kept_percent(settings) == 75.0
