"""Quantiles against those of torch."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from autoq.calibration.observers.quantiles import quantile_bounds


def quantile(numbers: list[float], share: float) -> float:
    return float(torch.quantile(torch.tensor(numbers, dtype=torch.float64), share))


@given(
    st.lists(st.floats(-1e3, 1e3, width=32), min_size=1, max_size=60),
    st.floats(50, 100),
)
def test_quantiles_are_those_of_torch(numbers: list[float], percentile: float) -> None:
    lower, upper = quantile_bounds(torch.tensor([numbers]), (percentile, 75.0))
    for index, share in enumerate((percentile / 100, 0.75)):
        assert float(lower[index]) == pytest.approx(quantile(numbers, 1 - share), rel=1e-4, abs=1e-3)
        assert float(upper[index]) == pytest.approx(quantile(numbers, share), rel=1e-4, abs=1e-3)


@pytest.mark.parametrize("percentile", [60.0, 99.0, 99.99, 99.999])
def test_quantiles_of_large_batches_are_exact(percentile: float) -> None:
    rows = torch.randn(2, 300_001, generator=torch.Generator().manual_seed(0))
    lower, upper = quantile_bounds(rows, (percentile,))
    shares = torch.tensor([1 - percentile / 100, percentile / 100], dtype=torch.float64)
    expected = torch.quantile(rows.double(), shares, dim=1).float()
    torch.testing.assert_close(torch.cat([lower, upper]), expected, rtol=1e-5, atol=1e-6)
