"""Numbers with which nothing would be searched are refused."""

from __future__ import annotations

import pytest

from autoq.calibration.fpcs.settings import FpcsSettings
from autoq.errors import CalibrationError


@pytest.mark.parametrize("name", ["candidates", "kept", "steps", "log_bases", "log_kept", "tokens", "images"])
def test_counts_are_positive(name: str) -> None:
    with pytest.raises(CalibrationError, match=f"{name} must be 1 or more, got 0"):
        FpcsSettings(**{name: 0})
    assert getattr(FpcsSettings(**{name: 1}), name) == 1


def test_rounds_may_be_none() -> None:
    assert FpcsSettings(rounds=0).rounds == 0
    with pytest.raises(CalibrationError, match="rounds must be 0 or more, got -1"):
        FpcsSettings(rounds=-1)


@pytest.mark.parametrize("quantile", [0.4, 1.1])
def test_quantiles_lie_between_one_half_and_one(quantile: float) -> None:
    with pytest.raises(CalibrationError, match=f"quantile must be between 0.5 and 1, got {quantile}"):
        FpcsSettings(quantile=quantile)
