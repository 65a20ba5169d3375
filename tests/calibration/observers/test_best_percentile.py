"""Quantiles to choose from by squared error."""

from __future__ import annotations

import torch

from autoq.calibration.observers import (
    BestPercentileObserver,
)


def test_candidates_are_quantiles_whatever_the_observed_range() -> None:
    rows = torch.randn(2, 5000, generator=torch.Generator().manual_seed(0))
    lower, upper = BestPercentileObserver.candidates(rows, torch.full((2,), -99.0), torch.full((2,), 99.0))
    for index, percent in enumerate((99.9, 99.99, 99.999)):
        torch.testing.assert_close(lower[index], torch.quantile(rows, 1 - percent / 100, dim=1), rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(upper[index], torch.quantile(rows, percent / 100, dim=1), rtol=1e-4, atol=1e-4)
