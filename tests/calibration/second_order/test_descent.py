"""Codes and scales improved in turns, against slow references."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from autoq.calibration.second_order.code_grid import CodeGrid
from autoq.calibration.second_order.descent import descend, refit_group_scales, refit_scale

ROWS, BITS = 6, 2


def case(channels: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Weight, nearest codes, scale, zero point, greatest code and Gram matrix."""
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(ROWS, channels, generator=generator)
    x = torch.randn(3 * channels, channels, generator=generator) @ torch.randn(channels, channels, generator=generator)
    scale, zero_point = torch.rand(ROWS, 1, generator=generator) * 0.5 + 0.5, torch.full((ROWS, 1), 1.0)
    most = torch.full((ROWS, 1), 2.0**BITS - 1)
    codes = torch.minimum((weight / scale + zero_point).round().clamp(min=0), most)
    return weight, codes, scale, zero_point, most, x.T @ x


def errors(weight: Tensor, value: Tensor, gram: Tensor) -> Tensor:
    difference = (value - weight).double()
    return ((difference @ gram.double()) * difference).sum(1)


@pytest.mark.parametrize("channels", [3, 64, 70])
def test_each_column_gets_the_best_codes_given_all_others(channels: int) -> None:
    """Every code of every column is tried; also over the borders of blocks of columns."""
    weight, codes, scale, zero_point, most, gram = case(channels)
    expected = codes.clone()
    for column in range(channels):
        tried = []
        for code in range(2**BITS):
            other = expected.clone()
            other[:, column] = code
            tried.append(errors(weight, (other - zero_point) * scale, gram))
        expected[:, column] = torch.stack(tried).argmin(0).float()
    found = descend(weight, codes, CodeGrid(scale, zero_point, most), gram)
    assert torch.equal(found, expected)
    assert not torch.equal(found, codes)


def test_scales_may_vary_along_a_row_and_nothing_gets_worse() -> None:
    weight, codes, scale, zero_point, most, gram = case(20)
    scales = scale * (torch.arange(20) % 3 + 1)
    before = codes
    for _ in range(4):
        after = descend(weight, before, CodeGrid(scales, zero_point, most), gram)
        values = [(each - zero_point) * scales for each in (before, after)]
        assert (errors(weight, values[1], gram) <= errors(weight, values[0], gram) * (1 + 1e-5)).all()
        before = after
    assert 0 <= before.min() <= before.max() <= 3


def test_channels_that_are_always_zero_keep_their_codes() -> None:
    weight, codes, scale, zero_point, most, gram = case(8)
    gram[5], gram[:, 5] = 0, 0
    found = descend(weight, codes, CodeGrid(scale, zero_point, most), gram)
    assert torch.equal(found[:, 5], codes[:, 5])
    assert torch.isfinite(found).all()


def test_a_scale_a_row_is_the_least_squares_one() -> None:
    weight, codes, scale, zero_point, most, gram = case(12)
    best = refit_scale(weight, codes, CodeGrid(scale, zero_point, most), gram)
    assert best.shape == scale.shape
    least = errors(weight, (codes - zero_point) * best, gram)
    for factor in (0.5, 0.99, 1.01, 2.0):
        assert (least < errors(weight, (codes - zero_point) * best * factor, gram)).all()
    assert (least <= errors(weight, (codes - zero_point) * scale, gram)).all()


def test_one_scale_for_all_rows_is_the_least_squares_one() -> None:
    weight, codes, scale, zero_point, most, gram = case(12)
    best = refit_scale(weight, codes, CodeGrid(scale[:1], zero_point[:1], most), gram)
    assert best.shape == (1, 1)
    least = errors(weight, (codes - zero_point) * best, gram).sum()
    for factor in (0.5, 0.99, 1.01, 2.0):
        assert least < errors(weight, (codes - zero_point) * best * factor, gram).sum()


def test_rows_without_a_best_positive_scale_keep_theirs() -> None:
    weight, codes, scale, zero_point, most, gram = case(12)
    codes[0] = zero_point[0]  # all zero: any scale does
    weight[1] = -(codes[1] - zero_point[1])  # a negative one would be best
    best = refit_scale(weight, codes, CodeGrid(scale, zero_point, most), gram)
    assert torch.equal(best[:2], scale[:2])
    assert not torch.isclose(best[2:], scale[2:]).any()


GROUPS = torch.tensor([0] * 5 + [1] * 3 + [2] * 4)


def test_scales_of_groups_are_the_least_squares_ones_together() -> None:
    """Against a general solver: ‖(Σ s_g q_g − w) L‖² with G = L Lᵀ, one row at a time."""
    weight, codes, scale, zero_point, most, gram = case(12)
    spread = (scale * torch.tensor([0.5, 1.0, 2.0]))[:, GROUPS]
    best = refit_group_scales(weight, codes, CodeGrid(spread, zero_point, most), gram, GROUPS)
    assert best.shape == spread.shape
    lower = torch.linalg.cholesky(gram.double())
    for row, found in enumerate(best):
        steps = (codes[row] - zero_point[row]).double()
        design = torch.stack([(steps * (group == GROUPS)) @ lower for group in range(3)], 1)
        expected = torch.linalg.lstsq(design, weight[row].double() @ lower).solution
        if (expected > 0).all():
            torch.testing.assert_close(found.double(), expected[GROUPS], rtol=1e-4, atol=1e-6)
        else:
            assert torch.equal(found, spread[row])
    assert (best != spread).any(1).sum() > 2, "rows that were solved"
    least, before = (errors(weight, (codes - zero_point) * each, gram) for each in (best, spread))
    assert (least <= before * (1 + 1e-5)).all()


def test_groups_that_change_nothing_keep_their_scales() -> None:
    weight, codes, scale, zero_point, most, gram = case(12)
    codes[:, GROUPS == 1] = zero_point[:, :1]
    spread = scale.expand(-1, 12).contiguous()
    best = refit_group_scales(weight, codes, CodeGrid(spread, zero_point, most), gram, GROUPS)
    torch.testing.assert_close(best[:, GROUPS == 1], spread[:, GROUPS == 1])
    assert not torch.isclose(best[:, GROUPS == 0], spread[:, GROUPS == 0]).all()


def test_one_group_is_one_scale_a_row() -> None:
    weight, codes, scale, zero_point, most, gram = case(12)
    single = refit_scale(weight, codes, CodeGrid(scale, zero_point, most), gram)
    whole = torch.zeros(12, dtype=torch.long)
    spread = CodeGrid(scale.expand(-1, 12).contiguous(), zero_point, most)
    torch.testing.assert_close(refit_group_scales(weight, codes, spread, gram, whole), single.expand(-1, 12))
