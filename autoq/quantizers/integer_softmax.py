"""Softmax in integer arithmetic."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from autoq.errors import CalibrationError

_SQUARE, _LINEAR, _CONSTANT = 0.35815147, 0.96963238, 1.0
"""I-BERT's polynomial for exp on (−ln 2, 0]: 0.35815147 · r² + 0.96963238 · r + 1."""
_LN2 = 0.6931
"""As published."""
_GREATEST_SHIFT = 30
_SUM_BITS = 62
"""Sums stay below 2^62, so that twice a remainder fits in an int64 too."""
_LEAST_SCALE = 2.0**-20
_GREATEST_SCALE = 2.0**-6
"""With which ln 2, rounded up to whole steps, is at most 2.3 % too large."""
_GREATEST_PUBLISHED_SCALE = 1.67
"""Up to which the published constant c is not zero."""
_MOST_ENTRIES = 4096
"""Of a table of exponentials; codes further down are all the same."""


@dataclass(frozen=True)
class _Constants:
    """What integer arithmetic at one scale needs; all are whole numbers.

    Attributes:
        ln2: steps that make ln 2, at least 1: −floor(−0.6931 / scale).
        linear: floor(0.96963238 / 0.35815147 / scale).
        constant: floor(1 / 0.35815147 / scale²).
    """

    ln2: int
    linear: int
    constant: int

    @classmethod
    def at(cls, scale: float) -> _Constants:
        if not (0 < scale < math.inf):
            raise CalibrationError(f"integer exponential: scale must be positive and finite, got {scale:g}")
        constant = math.floor(_CONSTANT / _SQUARE / scale**2) if scale > _LEAST_SCALE / 2 else 0
        if constant == 0:
            raise CalibrationError(f"integer exponential: scale {scale:g} is out of range (about 1e-6 to 1.67)")
        return cls(-math.floor(-_LN2 / scale), math.floor(_LINEAR / _SQUARE / scale), constant)


def integer_exponential(codes: Tensor, scale: float, row_length: int = 1) -> Tensor:
    """Compute exp(scale · code), up to a constant factor, in integers.

    I-BERT's (Kim et al., "I-BERT: Integer-only BERT Quantization", ICML 2021, §3.4 and §3.5) as FQ-ViT (Lin et al.,
    IJCAI 2022, equation 13) uses it: code = r − q · ln 2 / scale with r in (−ln 2 / scale, 0], and::

        exp = max(r · (r + b) + c, 0) · 2^(n − q),  b = floor(0.96963238 / 0.35815147 / scale)
                                                    c = floor(1 / 0.35815147 / scale²)

    n is 30, codes below −n · ln 2 / scale being taken for that. Where ``row_length`` results could reach 2^62 together,
    which takes scales below about 0.02 / √row_length, n is reduced just enough that they cannot.

    Args:
        codes: int64, not positive.
        scale: what one step of a code stands for; in about 1e−6..1.67.
        row_length: how many results will be added up.

    Returns:
        int64, not negative, of the shape of ``codes``; one is c · 2^n.

    Raises:
        CalibrationError: the scale is out of range.
    """
    constants = _Constants.at(scale)
    n = _shift(constants, row_length)
    negated = codes.neg().clamp_(0, n * constants.ln2)
    halvings = torch.div(negated, constants.ln2, rounding_mode="floor")
    remainder = halvings * constants.ln2 - negated
    polynomial = (remainder + constants.linear) * remainder + constants.constant
    return polynomial.clamp_(min=0).bitwise_left_shift(n - halvings)


def _shift(constants: _Constants, row_length: int) -> int:
    """Return n: 30, or the greatest with row_length · c · 2^n < 2^62. As −b < r ≤ 0, the polynomial is c at most."""
    return max(0, min(_GREATEST_SHIFT, _SUM_BITS - (row_length * constants.constant).bit_length()))


def integer_reciprocals(codes: Tensor, scale: float, dim: int) -> Tensor:
    """Compute N = round(Σ exp / exp), ties to even: the reciprocals of a softmax, in integers throughout.

    Args:
        codes: int64, whose greatest along ``dim`` is zero.
        scale: what one step of a code stands for.
        dim: dimension to sum over.

    Returns:
        int64; 0 where the exponential is zero.

    Raises:
        CalibrationError: the scale is out of range.
    """
    length = codes.shape[dim]
    reach = _shift(constants := _Constants.at(scale), length) * constants.ln2 + 1
    # In place where it can be: fresh memory costs more than the arithmetic.
    if reach <= _MOST_ENTRIES:  # codes are few: each exponential is computed once
        table = integer_exponential(torch.arange(0, -reach, -1, device=codes.device), scale, length)
        exponentials = table.take(codes.neg().clamp_(0, reach - 1))
    else:
        exponentials = integer_exponential(codes, scale, length)
    total = exponentials.sum(dim, keepdim=True)
    is_zero = exponentials == 0
    exponentials.clamp_(min=1)
    quotient = torch.div(total, exponentials, rounding_mode="floor")
    # Twice the remainder, plus one where a tie must be rounded up.
    twice = (quotient * exponentials).neg_().add_(total).mul_(2).add_(quotient & 1)
    return quotient.add_(twice > exponentials).masked_fill_(is_zero, 0)


class IntegerSoftmax(nn.Module):
    """Softmax of quantized scores in integer arithmetic, as in FQ-ViT (Lin et al., IJCAI 2022, §4.2).

    From scores that are whole multiples of ``scale`` (up to an offset that a row shares) their codes are recovered,
    less the row's greatest. The exponentials, their sum and N = round(Σ exp / exp), ties to even, are int64; the result
    is 1 / N, and 0 where the exponential is zero. Rows need not add up to one.

    With the quantizer ``log_int_softmax`` on the result this is FQ-ViT's Log-Int-Softmax: 1 / N in float32 has the code
    LogRound(N) for every N up to 2^22 (beyond, neighbouring reciprocals are the same float32), which all codes up to 22
    need.

    Logarithms fall by one every ⌈ln 2 / step⌉ steps, which is too slow where steps are large: at 0.6 a probability of
    7e−5 becomes 4e−3. Steps above 2^−6 are therefore split in two, four, … (the codes become longer, nothing else).
    As ``published`` they are split only above 1.67, where the constants say nothing. Steps below 2^−20, at which the
    constants overflow, are joined by twos. Codes are recovered exactly from float32 with up to 16 bits; bfloat16 cannot
    hold more than 7.

    Attributes:
        scale: step of the scores' quantizer.
    """

    def __init__(self, scale: float, *, published: bool = False) -> None:
        """Choose the arithmetic's own step.

        Args:
            scale: step of the scores' quantizer.
            published: take it as it is where that gives any result.

        Raises:
            CalibrationError: the scale is not positive and finite.
        """
        super().__init__()
        self.scale = float(scale)
        if not (0 < self.scale < 2.0**128):
            raise CalibrationError(f"integer softmax: scale must be positive and finite, got {self.scale:g}")
        self._doublings = 0
        greatest = _GREATEST_PUBLISHED_SCALE if published else _GREATEST_SCALE
        while math.ldexp(self.scale, -self._doublings) > greatest:
            self._doublings += 1
        while math.ldexp(self.scale, -self._doublings) < _LEAST_SCALE:
            self._doublings -= 1

    def forward(self, x: Tensor, dim: int, dtype: torch.dtype | None = None) -> Tensor:
        """Compute softmax along ``dim``; the gradient is that of the floating-point softmax.

        Args:
            x: scores.
            dim: dimension whose entries add up to about one.
            dtype: of the result; None: that of ``x``.
        """
        x = x if dtype is None else x.to(dtype)
        result = self._softmax(x.detach(), dim)
        if torch.is_grad_enabled() and x.requires_grad:
            floating = torch.softmax(x, dim)
            result = result + (floating - floating.detach())  # adds an exact zero that carries the gradient
        return result

    def _softmax(self, x: Tensor, dim: int) -> Tensor:
        greatest = x.amax(dim, keepdim=True).double()
        steps = x.to(torch.double, copy=True).sub_(greatest).div_(self.scale).round_()
        if self._doublings:
            steps.mul_(2.0**self._doublings).round_()
        # Far below what the exponential tells apart, yet within int64; masked scores are −infinity.
        codes = torch.nan_to_num_(steps, nan=0.0).clamp_(min=-(2.0**40)).long()
        reciprocals = integer_reciprocals(codes, math.ldexp(self.scale, -self._doublings), dim)
        # NaN where ATen's is: where a row has NaN or infinity, or nothing but −infinity.
        return (
            reciprocals.double()
            .reciprocal_()
            .masked_fill_(reciprocals == 0, 0.0)
            .masked_fill_(~torch.isfinite(greatest), torch.nan)
            .to(x.dtype)
        )
