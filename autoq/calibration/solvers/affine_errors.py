"""Squared errors of affine quantizers by the way that is fastest for the values and codes at hand."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from autoq.calibration.solvers.tables import ELEMENTS_AT_ONCE, LinearTable

Errors = Callable[[Tensor, Tensor], Tensor]
"""From candidate scales and zero points, of shape (rows, K), to squared errors of the same shape."""

_EXACT_BITS = 6
_MOST_THRESHOLDS = 1 << 18
"""Beyond ``_EXACT_BITS``, look thresholds up only if they are few: values share one code less and less often."""


def affine_errors(values: Tensor, table: Callable[[], LinearTable], bits: int) -> Errors:
    """Return the function that computes errors fastest: from the values where they are few beside the codes.

    Args:
        values: of shape (rows, n).
        table: gives histograms of them, where they are needed.
        bits: code width.
    """
    if values.shape[1] <= 8 * 2**bits and bits > 1:
        return lambda scale, zero_point: direct_errors(values, scale, zero_point, bits)

    def errors(scale: Tensor, zero_point: Tensor) -> Tensor:
        exact = scale.numel() * 2**bits <= _MOST_THRESHOLDS or bits <= _EXACT_BITS
        return table().affine_errors(scale, zero_point, bits, exact=exact)

    return errors


def direct_errors(values: Tensor, scale: Tensor, zero_point: Tensor, bits: int) -> Tensor:
    """Compute squared errors by quantizing the values.

    Args:
        values: of shape (rows, n).
        scale: K candidates a row, of shape (rows, K).
        zero_point: whole numbers, likewise.
        bits: code width.

    Returns:
        Of shape (rows, K).
    """
    errors = torch.empty_like(scale)
    rows = max(1, ELEMENTS_AT_ONCE // values.shape[1])
    for start in range(0, len(values), rows):
        block = values[start : start + rows]
        step, least = scale[start : start + rows], -zero_point[start : start + rows]
        for k in range(scale.shape[1]):
            low, s = least[:, k : k + 1], step[:, k : k + 1]
            rounded = (block / s).round_().clamp_min_(low).clamp_max_(low + (2**bits - 1))
            errors[start : start + rows, k] = rounded.mul_(s).sub_(block).square_().sum(1)
    return errors
