"""Power-of-two factors of least squared error, and the layer's range with them."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

import torch
from torch import Tensor

from autoq.calibration.solvers._base import BaseSolver, OperandData
from autoq.calibration.solvers.affine_errors import Errors, affine_errors, direct_errors
from autoq.quantizers import BaseQuantizer, PowerOfTwoFactorQuantizer, create_quantizer
from autoq.quantizers.power_of_two_factor import GREATEST_EXPONENT, choose_factor_qparams
from autoq.recipe import OperandConfig

_FACTORS = tuple(2.0**exponent for exponent in range(GREATEST_EXPONENT + 1))


class PowerOfTwoFactorSolver(BaseSolver):
    """Solves ``power_of_two_factor``: a range for the layer and a factor for each channel."""

    quantizer: ClassVar[type] = PowerOfTwoFactorQuantizer

    def solve(self, config: OperandConfig) -> BaseQuantizer:
        """Take the observed range, or the best of those that the observer offers, and factors of least error."""
        data = self._data_for_range()
        layer, channels = (
            data.rows(config.model_copy(update={"granularity": granularity, "groups": 1}))
            for granularity in ("tensor", "channel")
        )
        lower, upper = (bound.flatten() for bound in data.candidates(layer) or (layer.lower, layer.upper))
        errors = affine_errors(channels.values, lambda: data.linear_table(channels), config.bits)
        lower, upper, exponent = search_factors(channels.values, errors, lower, upper, config.bits)
        plain = PowerOfTwoFactorQuantizer.from_range(config, data.operand.layout, lower, upper).qparams()
        return create_quantizer(config, data.operand.layout, plain | {"exponent": exponent.view(channels.shape)})

    def _data_for_range(self) -> OperandData:
        """Return the operand's data as the observer of ranges with factors would have it."""
        settings = self.data.settings
        if settings.factor_observer is None:
            return self.data
        sample = replace(self.data.sample, observed={})
        return OperandData(self.data.operand, sample, replace(settings, observer=settings.factor_observer))


def search_factors(
    values: Tensor, errors: Errors, lower: Tensor, upper: Tensor, bits: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Choose the layer's range, of candidates, and each channel's factor of least squared error (FQ-ViT, equation 9).

    Args:
        values: of shape (channels, n).
        errors: squared errors of affine quantizers of the channels, perhaps approximate; ranks the candidates.
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
    """Compute steps and zero points at each of K ranges and each factor, of shape (channels, K · factors)."""
    scale, zero_point = choose_factor_qparams(lower, upper, bits)
    steps = scale.unsqueeze(1) * torch.tensor(_FACTORS, device=scale.device)
    zero_points = zero_point.unsqueeze(1).expand_as(steps)
    return steps.reshape(1, -1).repeat(channels, 1), zero_points.reshape(1, -1).repeat(channels, 1)
