"""A search that starts from the range of least squared error."""

from __future__ import annotations

import pytest
import torch

from autoq.calibration import CalibrationSettings, solve
from autoq.calibration.observers import MseObserver, OmseObserver
from tests.calibration.samples import SHAPE, config, draw, operand, sample_of, squared_error


def test_it_offers_the_ranges_of_omse() -> None:
    rows, bounds = torch.zeros(2, 3), (torch.tensor([-1.0, 0.0]), torch.tensor([2.0, 4.0]))
    found, expected = (observer.candidates(rows, *bounds) for observer in (MseObserver, OmseObserver))
    assert found is not None
    assert expected is not None
    for a, b in zip(found, expected, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("kind", ["normal", "heavy", "positive", "outliers"])
def test_searching_beats_shrinking_beats_the_observed_range(kind: str) -> None:
    sample = sample_of(operand(SHAPE), draw(kind))
    errors = [
        squared_error(
            solve(operand(SHAPE), config("uniform", 3), sample, CalibrationSettings(observer=observer)), sample
        )
        for observer in ("mse", "omse", "min_max")
    ]
    assert errors[0] <= errors[1] * (1 + 1e-3)
    assert errors[1] < errors[2]
