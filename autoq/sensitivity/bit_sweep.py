"""Which bit-widths of one operand are measured, and what is interpolated between them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from itertools import pairwise

from autoq.recipe import OperandConfig

_FLAT = 1.1
"""Between bit-widths whose losses differ by less than this factor nothing is measured: logarithmic grids lose the same
from some width on. Log-linear interpolation is not trusted elsewhere, even where it has been right before: on
``vit_digits`` it spares 5 % of the evaluations and makes allocations worse by up to 0.9 % of their objective."""


def coarse_bits(bits: Iterable[int]) -> tuple[int, ...]:
    """Choose the two lowest, a lower middle and the highest of ``bits``: 2, 3, 4 and 8 of 2 to 8."""
    offered = sorted(set(bits))
    # Losses fall unevenly at the low end, up to nine-hundredfold from 2 to 3 bits: interpolation would be far off.
    return tuple(sorted({*offered[:2], middle_bits(offered), offered[-1]}))


def middle_bits(bits: Iterable[int]) -> int:
    """Choose a lower middle of ``bits``: 4 of 2 to 8."""
    offered = sorted(set(bits))
    return offered[len(offered) // 3]


def sweep(
    configs: Iterable[OperandConfig], measure: Callable[[OperandConfig], float], exhaustive: bool
) -> dict[OperandConfig, float]:
    """Measure one operand's options; return the losses that were interpolated."""
    families: dict[OperandConfig, dict[int, OperandConfig]] = {}
    for config in configs:
        families.setdefault(family_of(config), {})[config.bits] = config
    losses = {
        family: {bits: measure(members[bits]) for bits in (sorted(members) if exhaustive else coarse_bits(members))}
        for family, members in families.items()
    }
    survivors = [family for family in families if not _is_dominated(family, losses)]
    for family in survivors:
        for low, high in pairwise(sorted(losses[family])):
            _refine(losses[family], families[family], low, high, measure)
    return {
        config: _interpolate(losses[family], bits)
        for family, members in families.items()
        for bits, config in members.items()
        if bits not in losses[family]
    }


def family_of(config: OperandConfig) -> OperandConfig:
    """Return what a configuration shares with those that differ from it only in bits."""
    return config.model_copy(update={"bits": 1})


def _is_dominated(family: OperandConfig, losses: Mapping[OperandConfig, Mapping[int, float]]) -> bool:
    """Return whether another family costs and loses no more at all measured bits; of equals, the first stays."""
    order = list(losses)

    def covers(one: OperandConfig, other: OperandConfig) -> bool:
        is_no_dearer = one.groups <= other.groups and one.hadamard_block <= other.hadamard_block
        return is_no_dearer and all(
            bits in losses[one] and losses[one][bits] <= loss for bits, loss in losses[other].items()
        )

    return any(
        covers(other, family) and (not covers(family, other) or order.index(other) < order.index(family))
        for other in losses
        if other != family
    )


def _refine(
    losses: dict[int, float],
    members: Mapping[int, OperandConfig],
    low: int,
    high: int,
    measure: Callable[[OperandConfig], float],
) -> None:
    """Measure between two bit-widths, halving the interval, until the losses at its ends are alike."""
    between = [bits for bits in sorted(members) if low < bits < high]
    least, most = sorted((losses[low], losses[high]))
    if not between or most <= _FLAT * least:
        return
    middle = between[len(between) // 2]
    losses[middle] = measure(members[middle])
    _refine(losses, members, low, middle, measure)
    _refine(losses, members, middle, high, measure)


def _interpolate(losses: Mapping[int, float], bits: int) -> float:
    """Interpolate between the nearest measured bits: geometrically, linearly if a loss is 0; infinite if one is."""
    low = max(known for known in losses if known < bits)
    high = min(known for known in losses if known > bits)
    weight = (bits - low) / (high - low)
    below, above = losses[low], losses[high]
    if math.isinf(below) or math.isinf(above):
        return math.inf
    if min(below, above) <= 0:
        return below + weight * (above - below)
    return math.exp(math.log(below) + weight * (math.log(above) - math.log(below)))
