"""Squared errors of affine quantizers, whichever way is fastest, against a loop over the values."""

from __future__ import annotations

import pytest
import torch

from autoq.calibration.solvers.affine_errors import affine_errors, direct_errors
from autoq.calibration.solvers.tables import LinearTable
from tests.calibration.samples import uniform_reference


@pytest.mark.parametrize(("bits", "length"), [(1, 200), (3, 40), (3, 4000), (6, 4000), (8, 9000)])
def test_every_way_agrees_with_the_values(bits: int, length: int) -> None:
    values = torch.randn(2, length, generator=torch.Generator().manual_seed(bits))
    steps = 2**bits - 1
    scale = torch.tensor([[6.0, 4.0], [8.0, 5.0]]) / steps
    zero_point = torch.full_like(scale, float(steps // 2))
    found = affine_errors(values, lambda: LinearTable.of_rows(values, 4096), bits)(scale, zero_point)
    direct = direct_errors(values, scale, zero_point, bits)
    for row in range(2):
        for k in range(2):
            expected = uniform_reference(values[row], float(scale[row, k]), float(zero_point[row, k]), bits)
            assert float(found[row, k]) == pytest.approx(expected, rel=0.03)
            assert float(direct[row, k]) == pytest.approx(expected, rel=1e-4)


def test_no_table_is_made_for_few_values() -> None:
    def refuse() -> LinearTable:
        raise AssertionError

    values = torch.randn(2, 50, generator=torch.Generator().manual_seed(0))
    errors = affine_errors(values, refuse, 4)(torch.full((2, 1), 0.3), torch.full((2, 1), 7.0))
    assert errors.shape == (2, 1)
