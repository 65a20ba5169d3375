"""Grids of codes: nearest values column by column, equally spaced or not."""

from __future__ import annotations

import pytest
import torch

from autoq.calibration.second_order.code_grid import CodeGrid
from autoq.quantizers._float_format import E2M1

ROWS, CHANNELS = 5, 7


def steps(rows: int, channels: int) -> torch.Tensor:
    return torch.rand(rows, channels, generator=torch.Generator().manual_seed(1)) + 0.2


@pytest.mark.parametrize("is_affine", [True, False])
@pytest.mark.parametrize(("rows", "channels"), [(1, 1), (ROWS, 1), (ROWS, CHANNELS)])
@pytest.mark.parametrize("order", [None, torch.tensor([3, 1, 0, 2, 6, 5, 4])])
def test_each_value_gets_the_nearest_code(
    is_affine: bool, rows: int, channels: int, order: torch.Tensor | None
) -> None:
    """Of all codes, by trying them."""
    step, one = steps(rows, channels), torch.ones(1, 1)
    grid = CodeGrid(step, 2 * one, 5 * one) if is_affine else CodeGrid.of_levels(step, E2M1.levels())
    weight = 3 * torch.randn(ROWS, CHANNELS, generator=torch.Generator().manual_seed(2))
    columns = grid.by_column(ROWS, CHANNELS, order)
    code, value = torch.empty(ROWS), torch.empty(ROWS)
    everything = [grid.values(torch.full(weight.shape, float(each))) for each in range(6 if is_affine else 15)]
    expected = torch.stack([(each - weight).abs() for each in everything]).argmin(0)
    for place, channel in enumerate(range(CHANNELS) if order is None else order.tolist()):
        columns.snap_(place, weight[:, channel], code, value)
        assert torch.equal(code.long(), expected[:, channel])
        assert torch.equal(value, grid.values(expected.float())[:, channel])
