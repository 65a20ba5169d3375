"""Element formats of a few bits: the values that they have, and rounding to the nearest of these."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

_EXPONENT_BITS = {
    torch.float32: (torch.int32, 0x7F800000),
    torch.float64: (torch.int64, 0x7FF0000000000000),
}
"""By type: the integers of its width, and the bits of its exponent."""


@dataclass(frozen=True)
class FloatFormat:
    """A signed format whose values are m · 2^(e − mantissa_bits) for whole numbers m, the same on both sides of zero.

    Attributes:
        bits: of an element.
        mantissa_bits: digits after the leading one.
        least_exponent: of normal numbers; those below are subnormal, with the same distance from each other.
        greatest: value.
    """

    bits: int
    mantissa_bits: int
    least_exponent: int
    greatest: float

    @property
    def greatest_exponent(self) -> int:
        """⌊log2 greatest⌋, which the OCP specification calls emax.

        >>> E4M3.greatest_exponent, E2M1.greatest_exponent, INT8.greatest_exponent
        (8, 2, 0)
        """
        return math.frexp(self.greatest)[1] - 1

    def round(self, x: Tensor) -> Tensor:
        """Return the nearest values, ties to even mantissas; beyond ``greatest`` values saturate, and NaN stays NaN.

        Args:
            x: float32 or float64.

        >>> E2M1.round(torch.tensor([0.3, 2.5, -5.0, 7.0])).tolist()
        [0.5, 2.0, -4.0, 6.0]
        """
        if self.least_exponent == self.greatest_exponent:  # equally spaced
            digits = 2.0**self.mantissa_bits
            return (x * digits).round_().mul_(1 / digits).clamp_(-self.greatest, self.greatest)
        step = floor_power_of_two(x).clamp_(2.0**self.least_exponent, 2.0**self.greatest_exponent)
        step.mul_(2.0**-self.mantissa_bits)
        return (x / step).round_().mul_(step).clamp_(-self.greatest, self.greatest)

    def levels(self) -> Tensor:
        """Return all values in ascending order, float32.

        >>> E2M1.levels().tolist()[7:]
        [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0]
        """
        return _levels(self)

    def codes(self, values: Tensor) -> Tensor:
        """Return the places (int32) of values among :meth:`levels`; NaN has that of zero."""
        levels = self.levels().to(values.device, values.dtype)
        return torch.bucketize(values.nan_to_num(0.0).contiguous(), levels, out_int32=True)


E4M3 = FloatFormat(bits=8, mantissa_bits=3, least_exponent=-6, greatest=448.0)
"""FP8 with 4 bits of exponent, without infinities (Micikevicius et al., "FP8 Formats for Deep Learning", 2022)."""
E2M1 = FloatFormat(bits=4, mantissa_bits=1, least_exponent=0, greatest=6.0)
"""FP4 (OCP Microscaling Formats Specification 1.0, section 5.3.3)."""
INT8 = FloatFormat(bits=8, mantissa_bits=6, least_exponent=0, greatest=127 / 64)
"""Whole multiples of 1/64 (OCP Microscaling Formats Specification 1.0, section 5.3.4), without −2."""


def floor_power_of_two(x: Tensor) -> Tensor:
    """Return 2^⌊log2 |x|⌋, exactly: 0 for subnormal numbers, infinity where ``x`` is not finite.

    Args:
        x: float32 or float64.

    >>> floor_power_of_two(torch.tensor([0.3, -1.0, 7.9])).tolist()
    [0.25, 1.0, 4.0]
    """
    if torch.compiler.is_exporting():
        return power_by_logarithm(x)
    integer, mask = _EXPONENT_BITS[x.dtype]
    return (x.view(integer) & mask).view(x.dtype)


def power_by_logarithm(x: Tensor) -> Tensor:
    """Return what :func:`floor_power_of_two` does, by operators that ONNX has; more slowly.

    >>> power_by_logarithm(torch.tensor([0.3, -1.0, 7.9])).tolist()
    [0.25, 1.0, 4.0]
    """
    magnitude = x.abs()
    power = torch.exp2(magnitude.log2().floor())
    # A logarithm that is off by a rounding error may lie on the wrong side of a whole number.
    power = torch.where(power > magnitude, power / 2, power)
    return torch.where(2 * power <= magnitude, 2 * power, power)


@lru_cache(maxsize=8)
def _levels(element: FloatFormat) -> Tensor:
    least = 2.0 ** (element.least_exponent - element.mantissa_bits)
    candidates = torch.arange(0, element.greatest + least / 2, least, dtype=torch.float64).float()
    positive = torch.unique(element.round(candidates))
    return torch.cat([-positive[1:].flip(0), positive])
