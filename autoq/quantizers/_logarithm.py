"""Logarithmic arithmetic: values of the form base^−i, and the exact thresholds between them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

MAX_LEVELS = 512
"""No base reaches further: 512 levels of the finest, 2^(10/37), span 138 octaves, and float32 has 126 below one."""
_MAX_CHAINED_LEVELS = 16
"""Up to here one pass a level is faster than two table look-ups (benchmarks/quantizers.py)."""
_BLOCK_ELEMENTS = 524_288
"""Elements worked on at a time, so that every pass but the first finds them in a cache."""
_BUCKET_SHIFT = 20
"""Leaves exponent and three mantissa bits of a float32: buckets of at most 0.17 octaves, less than any base's step."""


@dataclass(frozen=True, eq=False)
class LogLevels:
    """The values of a logarithmic quantizer of scale one, and what separates them.

    Codes 0..n − 1 are levels of falling value, code n is zero. Threshold i is the least float32 whose code is i or
    lower: comparing with it is exact, unlike rounding a float32 logarithm. Subnormal values are zero.

    Attributes:
        values: the n levels and zero, by code.
        thresholds: the n thresholds, ascending: the code of y is the number of thresholds above y.
        buckets: for each bucket of float32 bit patterns b, a number which, less b and shifted right by
            ``_BUCKET_SHIFT``, is the code plus one, or 0 for NaN. It holds the code at the bucket's start and the one
            threshold that the bucket may contain.
        bucket_values: NaN, then ``values``: what the results stand for.
        chain: (−threshold, value), by code.
    """

    values: Tensor
    thresholds: Tensor
    buckets: Tensor
    bucket_values: Tensor
    chain: tuple[tuple[float, float], ...]


@lru_cache(maxsize=1024)
def log_levels(count: int, numerator: int, denominator: int, value_step: float = 0.0) -> LogLevels:
    """Compute the levels of base 2^(numerator / denominator), which is at least 2^(10/37).

    Args:
        count: number of levels, n, zero not counted; cut at ``MAX_LEVELS``.
        numerator: of the base's binary logarithm.
        denominator: of the base's binary logarithm.
        value_step: round the significands (in (½, 1]) to multiples of this; 0: do not.
    """
    codes = range(min(count, MAX_LEVELS))
    values = np.array([_level(code * numerator, denominator, value_step) for code in codes])
    thresholds = np.array([_threshold(code, numerator, denominator) for code in codes])
    return _levels_of(values, thresholds)


@lru_cache(maxsize=64)
def reciprocal_levels(count: int) -> LogLevels:
    """Compute the levels 2^−code, where the code of y is that of the integer N = round(1 / y): FQ-ViT's LogRound.

    LogRound(N) is at most i where N is less than 3/2 · 2^i. The least whole number M that is not is 2 for i = 0 and
    3 · 2^(i − 1) after it; round(1 / y) < M where y > 1 / (M − 1/2), which no float equals.

    Args:
        count: number of levels, n, zero not counted; cut at ``MAX_LEVELS``.
    """
    codes = range(min(count, MAX_LEVELS))
    firsts = [2 if code == 0 else 3 << (code - 1) for code in codes]
    thresholds = np.array([_least_float_above(Fraction(2, 2 * first - 1)) for first in firsts])
    return _levels_of(np.array([math.ldexp(1.0, -code) for code in codes]), thresholds)


def _levels_of(values: NDArray[np.float64], thresholds: NDArray[np.float32]) -> LogLevels:
    """Make the look-up tables from levels and thresholds by code."""
    values32 = torch.from_numpy(np.append(values, 0.0)).float()
    return LogLevels(
        values=values32,
        thresholds=torch.from_numpy(thresholds[::-1].copy()),
        buckets=torch.from_numpy(_buckets(thresholds[::-1])),
        bucket_values=torch.cat([torch.tensor([torch.nan]), values32]),
        chain=tuple(zip((-thresholds).tolist(), values.tolist(), strict=True)),
    )


def round_to_levels(y: Tensor, thresholds: Tensor, values: Tensor) -> Tensor:
    """Round scaled values to the nearest levels; NaN stays NaN. Works anywhere, in one node a line when exported."""
    rounded = values[encode(y, thresholds)].to(y.dtype)
    return torch.where(torch.isnan(y), y, rounded)


def encode(y: Tensor, thresholds: Tensor) -> Tensor:
    """Return the codes (int64) of scaled values; NaN gets an arbitrary one."""
    return thresholds.shape[0] - torch.bucketize(y, thresholds, right=True)


def round_to_levels_(y: Tensor, levels: LogLevels) -> None:
    """Do the same, much faster, in place on a float32 CPU tensor whose elements fill one stretch of memory."""
    for block in torch.split(y.as_strided((y.numel(),), (1,)), _BLOCK_ELEMENTS):
        if len(levels.chain) <= _MAX_CHAINED_LEVELS:
            _replace_by_chain_(block, levels)
        else:
            _replace_by_table_(block, levels)


def _replace_by_chain_(y: Tensor, levels: LogLevels) -> None:
    """Take one pass a level: elements, negated, stay below zero until their level, which is positive, replaces them."""
    y.clamp_(min=0.0).neg_()
    for threshold, value in levels.chain:
        torch.threshold_(y, threshold, value)  # where y <= threshold: value
    y.clamp_(min=0.0)


def _replace_by_table_(y: Tensor, levels: LogLevels) -> None:
    """Look up twice, however many levels there are: the bucket of the bit pattern, then the value of the code."""
    bits = y.clamp_(min=0.0).abs_().view(torch.int32)  # abs_ clears the sign that −0 and NaN may have
    codes = levels.buckets.index_select(0, bits >> _BUCKET_SHIFT).sub_(bits).bitwise_right_shift_(_BUCKET_SHIFT)
    torch.index_select(levels.bucket_values, 0, codes, out=y)


def _level(exponent_numerator: int, denominator: int, value_step: float) -> float:
    shift, remainder = divmod(exponent_numerator, denominator)
    significand = 2.0 ** (-remainder / denominator)
    if value_step:
        significand = round(significand / value_step) * value_step
    return math.ldexp(significand, -shift)


def _threshold(code: int, numerator: int, denominator: int) -> np.float32:
    """Find the least float32 y with round(−log2(y) · denominator / numerator) ≤ code."""
    halves = (2 * code + 1) * numerator
    exact = 2.0 ** (-halves / (2 * denominator))
    nearest = np.float32(exact)
    # A tie goes to the even code. Powers of two may be ties, other float32 numbers cannot.
    is_excluded_tie = halves % (2 * denominator) == 0 and code % 2 == 1
    if float(nearest) < exact or is_excluded_tie:
        nearest = np.nextafter(nearest, np.float32(np.inf))
    return max(nearest, np.finfo(np.float32).tiny)


def _least_float_above(exact: Fraction) -> np.float32:
    """Find the least normal float32 that is greater than a positive number below one that no float32 equals."""
    nearest = np.float32(float(max(exact, Fraction(np.finfo(np.float32).tiny.item()))))
    if Fraction(nearest.item()) < exact:
        nearest = np.nextafter(nearest, np.float32(np.inf))
    return nearest


def _buckets(thresholds: NDArray[np.float32]) -> NDArray[np.int32]:
    """Compute ``LogLevels.buckets`` from ascending thresholds."""
    width = 1 << _BUCKET_SHIFT
    starts = np.arange(0, 1 << 31, width, dtype=np.int64)
    infinity = int(np.float32(np.inf).view(np.int32))
    # Patterns of positive floats are ordered as the floats are; those of NaN follow infinity's.
    edges = np.append(thresholds.view(np.int32), infinity + 1).astype(np.int64)
    first = len(edges) - np.searchsorted(edges, starts, side="right")
    last = len(edges) - np.searchsorted(edges, starts + width - 1, side="right")
    edge = np.append(edges, 0)[np.searchsorted(edges, starts, side="right")]
    offset = np.where(first == last, width - 1, edge - starts - 1)
    # The sum wraps around at 2^32, and back when a pattern is subtracted.
    return (starts + (first << _BUCKET_SHIFT) + offset).astype(np.uint32).view(np.int32)
