"""What every run is told: checked, and never changed."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from autoq.runs.settings import CalibrationChoices


def test_defaults_need_nothing_but_autoq() -> None:
    choices = CalibrationChoices()
    assert (choices.model, choices.data, choices.observer, choices.device) == ("vit_digits", "digits", "mse", "auto")


@pytest.mark.parametrize(
    "change", [{"calib_images": 0}, {"seed": -1}, {"observer": "mze"}, {"modl": "x"}, {"pretrained": "maybe"}]
)
def test_wrong_values_are_refused(change: dict[str, object]) -> None:
    with pytest.raises(ValidationError, match=next(iter(change))):
        CalibrationChoices.model_validate(change)


def test_they_do_not_change() -> None:
    with pytest.raises(ValidationError):
        CalibrationChoices().seed = 3  # type: ignore[misc]
