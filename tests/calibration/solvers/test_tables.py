"""Errors from prefix sums against errors value by value."""

from __future__ import annotations

import pytest
import torch

from autoq.calibration.solvers.tables import LinearTable
from tests.calibration.samples import uniform_reference

VALUES = torch.stack(
    [
        torch.randn(5000, generator=torch.Generator().manual_seed(0)),
        torch.randn(5000, generator=torch.Generator().manual_seed(1)).exp() - 0.3,
    ]
)


@pytest.mark.parametrize("bits", [1, 2, 3, 4, 6, 8])
def test_affine_errors_match_the_values(bits: int) -> None:
    table = LinearTable.of_rows(VALUES, 4096)
    scale = torch.tensor([[6.0, 3.0, 8.0], [9.0, 4.0, 1.0]]) / (2**bits - 1)
    zero_point = (torch.tensor([[0.5, 0.4, 0.9], [0.1, 0.0, 0.5]]) * (2**bits - 1)).round()
    errors = table.affine_errors(scale, zero_point, bits, exact=True)
    for row in range(2):
        for k in range(3):
            expected = uniform_reference(VALUES[row], float(scale[row, k]), float(zero_point[row, k]), bits)
            assert float(errors[row, k]) == pytest.approx(expected, rel=0.02)


@pytest.mark.parametrize("bits", [7, 8])
def test_integrated_errors_are_near_the_exact_ones(bits: int) -> None:
    table = LinearTable.of_rows(VALUES, 4096)
    scale = torch.tensor([[6.0, 3.0], [30.0, 10.0]]) / (2**bits - 1)
    zero_point = (torch.tensor([[0.5, 0.4], [0.02, 0.05]]) * (2**bits - 1)).round()
    exact = table.affine_errors(scale, zero_point, bits, exact=True)
    torch.testing.assert_close(table.affine_errors(scale, zero_point, bits, exact=False), exact, rtol=0.06, atol=0)


def test_members_are_rows_with_weights() -> None:
    row_of = torch.arange(5000) % 2
    weights = torch.ones(5000)
    table = LinearTable.of_members(VALUES[0], row_of, weights, count=3, bins=512)
    scale, zero_point = torch.full((3, 1), 0.5), torch.full((3, 1), 7.0)
    errors = table.affine_errors(scale, zero_point, 4, exact=True)
    for row in range(2):
        expected = uniform_reference(VALUES[0][row::2], 0.5, 7.0, 4)
        assert float(errors[row]) == pytest.approx(expected, rel=0.02)
    assert float(errors[2]) == 0
    doubled = LinearTable.of_members(VALUES[0], row_of, 2 * weights, count=3, bins=512)
    torch.testing.assert_close(doubled.affine_errors(scale, zero_point, 4, exact=True), 2 * errors)


def test_equal_values_have_a_table() -> None:
    table = LinearTable.of_rows(torch.full((1, 50), 3.0), 64)
    errors = table.affine_errors(torch.tensor([[1.0, 2.0]]), torch.zeros(1, 2), 3, exact=True)
    assert errors[0].tolist() == pytest.approx([0.0, 50.0], abs=1e-3)
