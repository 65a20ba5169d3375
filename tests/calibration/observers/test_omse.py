"""Ranges to choose from by squared error."""

from __future__ import annotations

import torch

from autoq.calibration.observers import (
    MinMaxObserver,
    OmseObserver,
)


def test_both_bounds_shrink_together_in_steps_of_one_percent() -> None:
    lower, upper = torch.tensor([-1.0, 0.0]), torch.tensor([2.0, 4.0])
    found = OmseObserver.candidates(torch.zeros(2, 3), lower, upper)
    assert found is not None
    assert found[0].shape == found[1].shape == (90, 2)
    for step in (0, 1, 89):
        torch.testing.assert_close(found[0][step], lower * (1 - step / 100))
        torch.testing.assert_close(found[1][step], upper * (1 - step / 100))


def test_the_observed_range_has_no_rival() -> None:
    assert MinMaxObserver.candidates(torch.zeros(2, 3), torch.zeros(2), torch.ones(2)) is None
