"""Settings of the reconstruction of blocks."""

from __future__ import annotations

import pytest

from autoq.errors import CalibrationError
from autoq.reconstruction.settings import ReconstructionSettings


@pytest.mark.parametrize(
    "wrong",
    [
        {"iterations": 0},
        {"batch": 0},
        {"protocol": "paper"},
        {"importance": "l1"},
        {"drop": 1.0},
        {"regularization": 0.0},
        {"warm_up": 1.0},
        {"exponent_end": 30.0},
        {"weight_rate": 0.0},
        {"scale_rate": -1.0},
        {"importance_images": 0},
    ],
)
def test_settings_are_checked(wrong: dict[str, float]) -> None:
    ((name, value),) = wrong.items()
    with pytest.raises(CalibrationError, match=f"{name} of a reconstruction is {value!r}"):
        ReconstructionSettings(**wrong)  # type: ignore[arg-type]


def test_fewer_iterations_take_longer_steps() -> None:
    assert ReconstructionSettings(iterations=20_000).rounding_rate == pytest.approx(1e-3)
    assert ReconstructionSettings(iterations=200).rounding_rate > ReconstructionSettings(iterations=1000).rounding_rate
    assert ReconstructionSettings(iterations=1).rounding_rate == pytest.approx(0.05)
    assert ReconstructionSettings(weight_rate=0.5).rounding_rate == 0.5


def test_scales_keep_the_published_ratio_to_rounding() -> None:
    for iterations in (1, 1000, 20_000, 40_000):
        settings = ReconstructionSettings(iterations=iterations)
        assert settings.rate_of(1.0) / settings.rounding_rate == pytest.approx(4e-5 / 1e-3)
    # A sixteenth of the published iterations takes steps 16^(3/4) = 8 times as long.
    assert ReconstructionSettings(iterations=1250).rate_of(1.0) == pytest.approx(8 * 4e-5)
    assert ReconstructionSettings(scale_rate=0.0).rate_of(3.0) == 0


def test_rates_of_scales_are_relative_unless_published() -> None:
    assert ReconstructionSettings(scale_rate=0.01).rate_of(3.0) == pytest.approx(0.03)
    assert ReconstructionSettings(protocol="published", scale_rate=0.01).rate_of(3.0) == 0.01
