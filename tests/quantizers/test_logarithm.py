"""Levels, the exact thresholds between them, and the two ways to look them up."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
import torch

from autoq.quantizers._logarithm import (
    MAX_LEVELS,
    encode,
    log_levels,
    reciprocal_levels,
    round_to_levels,
    round_to_levels_,
)

BASES = [(1, 1), (1, 2), (10, 37), (26, 37), (74, 37), (137, 37)]


def has_code_at_most(y: np.float32, code: int, numerator: int, denominator: int) -> bool:
    """Whether round(−log2(y) · r / q) ≤ code, ties to even, in whole numbers."""
    power, threshold = Fraction(y.item()) ** (2 * denominator), Fraction(1, 2 ** ((2 * code + 1) * numerator))
    return power > threshold or (power == threshold and code % 2 == 0)


@pytest.mark.parametrize(("numerator", "denominator"), BASES)
def test_thresholds_are_the_least_floats_of_their_codes(numerator: int, denominator: int) -> None:
    thresholds = log_levels(15, numerator, denominator).thresholds.flip(0).numpy()
    assert len(thresholds) == 15
    for code, threshold in enumerate(thresholds):
        assert has_code_at_most(threshold, code, numerator, denominator)
        if threshold > np.finfo(np.float32).tiny:
            below = np.nextafter(threshold, np.float32(0))
            assert not has_code_at_most(below, code, numerator, denominator)


@pytest.mark.parametrize(("numerator", "denominator"), BASES)
def test_values_are_powers_of_the_base(numerator: int, denominator: int) -> None:
    expected = [2.0 ** (-code * numerator / denominator) for code in range(15)] + [0.0]
    torch.testing.assert_close(log_levels(15, numerator, denominator).values, torch.tensor(expected))


def test_significands_are_multiples_of_the_step() -> None:
    values = log_levels(31, 26, 37, 1 / 62).values[:-1]
    significands = values.double() * torch.exp2((-torch.log2(values.double()) + 1e-9).floor())  # in (½, 1]
    torch.testing.assert_close(significands * 62, (significands * 62).round(), rtol=0, atol=1e-5)
    exact = log_levels(31, 26, 37).values[:-1]
    assert not torch.equal(values, exact)
    torch.testing.assert_close(values, exact, rtol=1 / 62, atol=0)


def test_no_more_levels_than_float32_can_tell_apart() -> None:
    levels = log_levels(2**16 - 1, 10, 37)
    assert len(levels.chain) == len(levels.thresholds) == len(levels.values) - 1 == MAX_LEVELS
    assert levels.thresholds[0] == torch.finfo(torch.float32).tiny


def log_round(number: int) -> int:
    """LogRound of FQ-ViT: the binary logarithm of a whole number, rounded up from 3/2 of a power of two."""
    octave = number.bit_length() - 1
    return octave + (2 * number >= 3 * 2**octave and number > 1)


def test_reciprocal_levels_are_those_of_rounded_reciprocals() -> None:
    levels = reciprocal_levels(15)
    assert levels.values.tolist() == [2.0**-code for code in range(15)] + [0.0]
    y = torch.rand(3000, generator=torch.Generator().manual_seed(0)).double().exp2() - 1
    y = torch.cat([y, y**8, 1 / torch.arange(1, 2000).double()]).clamp(min=1e-6).float()
    for value, code in zip(y.tolist(), encode(y, levels.thresholds).tolist(), strict=True):
        reciprocal = 1 / Fraction(value)
        assert code == min(log_round(math.floor(reciprocal + Fraction(1, 2))), 15), value


@pytest.mark.parametrize("count", [1, 7, 16, 17, 255])
def test_both_fast_ways_agree_with_comparing(count: int) -> None:
    """Up to 16 levels one pass each, above that tables; NaN, infinities, signs and subnormals included."""
    levels = log_levels(count, 13, 37)
    x = torch.rand(40, 50, generator=torch.Generator().manual_seed(1)) ** 6 - 0.01
    special = [torch.nan, -torch.nan, torch.inf, -torch.inf, 0.0, -0.0, 1e-45, -1e-45, 1.0, 2.0]
    x.view(-1)[: len(special)] = torch.tensor(special)
    x.view(-1)[100 : 100 + count] = levels.thresholds
    expected = round_to_levels(x, levels.thresholds, levels.values)
    for each in (x.clone(), x.t().contiguous().t()):  # two memory layouts
        round_to_levels_(each, levels)
        torch.testing.assert_close(each, expected, rtol=0, atol=0, equal_nan=True)
    assert torch.equal(expected.isnan(), x.isnan())
