"""Which settings are refused."""

from __future__ import annotations

from typing import Any

import pytest

from autoq.calibration import CalibrationSettings
from autoq.calibration.fpcs.settings import FpcsSettings
from autoq.errors import CalibrationError, RecipeError


@pytest.mark.parametrize("value", [49.0, 100.5, float("nan")])
def test_percentiles_that_turn_bounds_around_are_refused(value: float) -> None:
    with pytest.raises(CalibrationError, match=f"percentile must be between 50 and 100, got {value:g}"):
        CalibrationSettings(percentile=value)


@pytest.mark.parametrize("value", [-0.1, 1.5])
def test_averaging_constants_beyond_one_are_refused(value: float) -> None:
    with pytest.raises(CalibrationError, match=f"averaging_constant must be between 0 and 1, got {value:g}"):
        CalibrationSettings(averaging_constant=value)


def test_unknown_observers_are_refused() -> None:
    with pytest.raises(CalibrationError, match=r"unknown observer 'msee'; there are mse, .*\. Did you mean 'mse'\?"):
        CalibrationSettings(observer="msee")
    with pytest.raises(RecipeError, match=r"calibration settings: unknown observer 'msee'"):
        CalibrationSettings.from_json({"observer": "msee"})


def test_banks_of_before_a_setting_stay_what_they_are() -> None:
    """The settings in banks that were solved before there were shared ranges and last batches."""
    before = {
        *("observer", "percentile", "averaging_constant", "sample_images", "sample_elements", "bins", "seed", "inputs"),
        *("include_zero", "norm_observer", "weight_observer", "factor_observer", "second_order", "fpcs"),
    }
    assert CalibrationSettings().identity().keys() == before
    assert CalibrationSettings(observer="omse", seed=3).identity().keys() == before
    assert "result" not in CalibrationSettings().identity()["fpcs"]


@pytest.mark.parametrize(
    "changes",
    [
        {"sample_last_batch": True},
        {"batch_images": 100},
        {"shares_ranges": True},
        {"seed": 1},
        {"bins": 64},
        {"fpcs": FpcsSettings(result="last_step")},
        {"fpcs": FpcsSettings(steps=6)},
    ],
)
def test_every_setting_that_is_not_the_default_makes_another_bank(changes: dict[str, Any]) -> None:
    assert CalibrationSettings(**changes).identity() != CalibrationSettings().identity()
