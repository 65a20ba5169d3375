"""Errors from sorted values against errors value by value."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from autoq.calibration.solvers.sorted_rows import SortedRows
from tests.calibration.samples import uniform_reference


@settings(deadline=None)
@given(
    st.lists(st.floats(-100, 100, width=32), min_size=1, max_size=50),
    st.floats(2**-10, 10, width=32),
    st.integers(0, 15),
    st.sampled_from([1, 2, 4]),
)
def test_errors_from_sorted_values_are_those_of_the_values(
    numbers: list[float], scale: float, zero_point: int, bits: int
) -> None:
    row = torch.tensor([numbers, numbers])
    scales = torch.tensor([[scale, 2 * scale]] * 2)
    zero_points = torch.full_like(scales, min(zero_point, 2**bits - 1))
    found = SortedRows.of_rows(row).affine_errors(scales, zero_points, bits)
    for index in range(2):
        expected = uniform_reference(row[0], float(scales[0, index]), float(zero_points[0, index]), bits)
        assert found[:, index].tolist() == pytest.approx([expected] * 2, rel=1e-6, abs=1e-6)
