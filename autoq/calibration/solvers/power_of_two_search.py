"""The power-of-two factors of least squared error, and the layer's range with them."""

from __future__ import annotations

import torch
from torch import Tensor

from autoq.calibration.solvers.uniform_search import Errors, direct_errors
from autoq.quantizers.power_of_two_factor import GREATEST_EXPONENT, choose_factor_qparams

_FACTORS = tuple(2.0**exponent for exponent in range(GREATEST_EXPONENT + 1))


def search_factors(
    values: Tensor, errors: Errors, lower: Tensor, upper: Tensor, bits: int
) -> tuple[Tensor, Tensor, Tensor]:
    """The layer's range, of candidates, and each channel's factor of least squared error (FQ-ViT, equation 9).

    Args:
        values: of shape (channels, n).
        errors: squared errors of uniform quantizers of the channels, perhaps approximate; ranks the candidates.
        lower: of K candidate ranges of the layer, of shape (K,); published is one, the observed range.
        upper: likewise.
        bits: code width.

    Returns:
        Lower and upper bound, one number each, and α, whole numbers 0..3 of shape (channels,), float32; the first range
        and the least α of several that are as good.
    """
    best = 0
    if len(lower) > 1:
        by_factor = errors(*_candidates(lower, upper, bits, len(values))).view(len(values), len(lower), len(_FACTORS))
        best = int(by_factor.amin(2).sum(0, dtype=torch.float64).argmin())
    found = lower[best : best + 1], upper[best : best + 1]
    steps, zero_points = _candidates(*found, bits, len(values))
    return *found, direct_errors(values, steps, zero_points, bits).argmin(1).float()


def _candidates(lower: Tensor, upper: Tensor, bits: int, channels: int) -> tuple[Tensor, Tensor]:
    """Steps and zero points at each of K ranges and each factor, of shape (channels, K · factors)."""
    scale, zero_point = choose_factor_qparams(lower, upper, bits)
    steps = scale.unsqueeze(1) * torch.tensor(_FACTORS, device=scale.device)
    zero_points = zero_point.unsqueeze(1).expand_as(steps)
    return steps.reshape(1, -1).repeat(channels, 1), zero_points.reshape(1, -1).repeat(channels, 1)
