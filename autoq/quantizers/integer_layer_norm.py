"""LayerNorm in integer arithmetic."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from autoq.errors import CalibrationError

_MULTIPLIER_BITS = 8
_GREATEST_SHIFT = 31


class IntegerLayerNorm(nn.Module):
    """FQ-ViT's integer LayerNorm (Lin et al., "FQ-ViT", IJCAI 2022, §4.1, equations 10 to 12).

    Its input is what ``power_of_two_factor`` gives: whole multiples m of one scale s. Statistics are computed from them
    in integers; over C channels, with the output's step s_out, the weight γ and the bias β::

        mean   = s · Σm / C
        std    = √((s / C)² · (C · Σm² − (Σm)²) + eps)
        A      = s · γ / (std · s_out) ≈ sign(A) · M / 2^N,  N = clamp(7 − floor(log2 |A|), 0, 31)
                                                             M = clamp(floor(|A| · 2^N), 0, 255)
        B      = round((β − mean · γ / std) / s_out · 2^N)
        result = round((sign(A) · M · m + B) / 2^N) · s_out

    ``eps`` stands where ATen has it (the published code leaves it out). Of a row of equal values A is taken for 0, so
    that it gives the bias: eight bits of a great A, less the mean in full, would not. As published |A| is 255 at most.
    Without an output scale the statistics are those and the affine map is in floating point, without rounding.

    From float32, multiples below 2^23 are recovered exactly; bfloat16 holds the first eight bits of each.

    Attributes:
        scale: s.
        output_scale: s_out, or None.
    """

    def __init__(self, scale: Tensor | float, output_scale: Tensor | float | None = None) -> None:
        """Keep the scales as plain numbers.

        Args:
            scale: s, one number: the ``scale`` of the input's ``power_of_two_factor`` quantizer.
            output_scale: step of the result, one number, or None.

        Raises:
            CalibrationError: a scale is not one positive, finite number.
        """
        super().__init__()
        self.scale = _one_positive("scale", scale)
        self.output_scale = None if output_scale is None else _one_positive("output_scale", output_scale)

    def forward(
        self,
        x: Tensor,
        normalized_shape: Sequence[int],
        weight: Tensor | None = None,
        bias: Tensor | None = None,
        eps: float = 1e-5,
        *ignored: object,  # noqa: ARG002 - cudnn_enable
    ) -> Tensor:
        """Normalize the last dimension; arguments are those of ATen's ``layer_norm``, and so is the gradient.

        Args:
            x: multiples of ``scale``, in magnitude less than 2^31 / C of them (greater ones are clamped).
            normalized_shape: size of the last dimension, alone.
            weight: γ, of that size, or None for ones.
            bias: β, of that size, or None for zeros.
            eps: added to the variance.
            ignored: further arguments of ATen's ``layer_norm``.

        Raises:
            CalibrationError: other dimensions than the last are to be normalized.
        """
        if tuple(normalized_shape) != tuple(x.shape[-1:]):
            raise CalibrationError(
                f"integer LayerNorm normalizes the last dimension alone, not {tuple(normalized_shape)} of "
                f"{tuple(x.shape)}; leave this site in floating point"
            )
        with torch.no_grad():
            result = self._normalize(x, weight, bias, eps).to(x.dtype)
        differentiable = any(tensor is not None and tensor.requires_grad for tensor in (x, weight, bias))
        if torch.is_grad_enabled() and differentiable:
            floating = functional.layer_norm(x, list(normalized_shape), weight, bias, eps)
            result = result + (floating - floating.detach())  # adds an exact zero that carries the gradient
        return result

    def _normalize(self, x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float) -> Tensor:
        channels = x.shape[-1]
        limit = 2.0**31 // channels
        multiples = x.to(torch.double, copy=True).div_(self.scale).round_().clamp_(-limit, limit)
        total, spread = integer_statistics(torch.nan_to_num(multiples).long())
        mean = total.double() * (self.scale / channels)
        std = torch.sqrt(spread.double() * (self.scale / channels) ** 2 + eps)
        # A row with NaN is NaN throughout, as ATen's.
        mean = mean.masked_fill_(multiples.sum(-1, keepdim=True).isnan(), torch.nan)
        inverse = std.reciprocal_().masked_fill_(spread == 0, 0.0)
        slope = inverse.expand_as(multiples) if weight is None else inverse * weight.double()
        intercept = -mean * slope
        if bias is not None:
            intercept += bias
        if self.output_scale is None:
            return multiples.mul_(slope * self.scale).add_(intercept)
        return self._scaled(slope, intercept, multiples, self.output_scale)

    def _scaled(self, slope: Tensor, intercept: Tensor, multiples: Tensor, output_scale: float) -> Tensor:
        """Multiply, add and shift. Whole numbers below 2^53 and powers of two are exact in float64, as are these."""
        factor = slope * (self.scale / output_scale)
        magnitude = factor.abs()
        octave = torch.frexp(magnitude).exponent - 1  # floor(log2), exactly
        shift = octave.neg_().add_(_MULTIPLIER_BITS - 1).clamp_(0, _GREATEST_SHIFT)
        power = torch.exp2(shift.masked_fill_(magnitude == 0, _GREATEST_SHIFT).double())
        multiplier = magnitude.mul_(power).floor_().clamp_(0, 2**_MULTIPLIER_BITS - 1).copysign_(factor)
        offset = intercept.div_(output_scale).mul_(power).round_()
        return multiples.mul_(multiplier).add_(offset).div_(power).round_().mul_(output_scale)


def integer_statistics(multiples: Tensor) -> tuple[Tensor, Tensor]:
    """Compute Σm and C · Σm² − (Σm)² over the last dimension, of size C.

    Args:
        multiples: int64, in magnitude at most 2^31 / C.

    Returns:
        int64, with a last dimension of size one; the second is C² times the variance, not negative.
    """
    total = multiples.sum(-1, keepdim=True)
    squares = multiples.square().sum(-1, keepdim=True)
    return total, squares * multiples.shape[-1] - total.square()


def _one_positive(name: str, value: Tensor | float) -> float:
    if isinstance(value, Tensor) and value.numel() != 1:
        raise CalibrationError(f"integer LayerNorm: {name} must be one number, got shape {tuple(value.shape)}")
    number = float(value)
    if not (0 < number < math.inf):
        raise CalibrationError(f"integer LayerNorm: {name} must be positive and finite, got {number:g}")
    return number
