"""Widths that are measured first, and losses in between; ``test_measure.py`` has whole tables."""

from __future__ import annotations

import math

import pytest

from autoq.recipe import OperandConfig
from autoq.sensitivity.bit_sweep import coarse_bits, family_of, middle_bits, sweep

FAMILY = [OperandConfig(scheme="uniform", bits=bits) for bits in range(2, 9)]


def test_coarse_bits() -> None:
    assert coarse_bits(range(2, 9)) == (2, 3, 4, 8)
    assert coarse_bits([8, 4]) == (4, 8)
    assert coarse_bits([8, 3, 4, 4]) == (3, 4, 8)
    assert coarse_bits([2, 3, 4, 5, 6]) == (2, 3, 6)
    assert coarse_bits([6]) == (6,)
    assert middle_bits(range(2, 9)) == 4
    assert middle_bits([4, 8]) == 4
    assert middle_bits([6]) == 6


def test_a_family_differs_in_bits_alone() -> None:
    assert len({family_of(config) for config in FAMILY}) == 1
    assert family_of(FAMILY[0]) != family_of(FAMILY[0].model_copy(update={"symmetric": True}))


def test_flat_losses_are_interpolated() -> None:
    """Nothing is measured between widths that lose about the same; the logarithm of the loss is linear there."""
    asked: list[int] = []

    def measure(config: OperandConfig) -> float:
        asked.append(config.bits)
        return {2: 1.0, 3: 0.1, 4: 0.0104, 8: 0.01}[config.bits]

    found = sweep(FAMILY, measure, exhaustive=False)
    assert asked == [2, 3, 4, 8]
    losses = {config.bits: loss for config, loss in found.items()}
    expected = {bits: math.exp(math.log(0.0104) + (bits - 4) / 4 * math.log(0.01 / 0.0104)) for bits in (5, 6, 7)}
    assert losses == pytest.approx(expected)
    asked.clear()
    everything = dict.fromkeys(range(2, 9), 1.0)
    assert sweep(FAMILY, lambda config: everything[config.bits], exhaustive=True) == {}
