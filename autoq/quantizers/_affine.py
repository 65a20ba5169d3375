"""Affine arithmetic: x ≈ scale · (code − zero_point), shared by the uniform schemes.

The bounds are moved to the zero point's side (clamp to 0 − zero_point and 2^bits − 1 − zero_point), which spares adding
and subtracting it; sums of small integers being exact, the results are the same bit for bit.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from autoq.quantizers._base import usable_out, working_dtype

_EPSILON = torch.finfo(torch.float32).eps


def choose_affine_qparams(lower: Tensor, upper: Tensor, bits: int, *, include_zero: bool) -> tuple[Tensor, Tensor]:
    """Choose scale and zero point that spread 2^bits codes between two bounds.

    Args:
        lower: least values.
        upper: greatest values.
        bits: code width.
        include_zero: widen the range to zero, which then has a code of its own; the zero point lies in 0..2^bits − 1.

    Returns:
        scale (positive even where the bounds are equal) and zero point (whole numbers), as float32.
    """
    lower, upper = lower.detach().float(), upper.detach().float()
    if include_zero:
        lower, upper = lower.clamp(max=0.0), upper.clamp(min=0.0)
    steps = 2**bits - 1
    # Divided before subtracted, because the span of two finite bounds may be infinite. A group of equal values gets the
    # finest grid on which float32 can still tell neighbours apart.
    scale = upper / steps - lower / steps
    scale = _keep_finite(torch.maximum(scale, torch.maximum(lower.abs(), upper.abs()) * _EPSILON), bits)
    zero_point = torch.round(-lower / scale)
    return scale, zero_point.clamp(0, steps) if include_zero else zero_point


def choose_symmetric_qparams(lower: Tensor, upper: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    """Choose scale and zero point with the same reach on both sides of zero.

    The reach is (2^bits − 1) / 2 steps, half a step more than the greatest code on the positive side, so that no value
    between the bounds is more than half a step away from a code.
    """
    reach = torch.maximum(lower.detach().abs(), upper.detach().abs()).float()
    scale = _keep_finite(reach / ((2**bits - 1) / 2), bits)
    return scale, torch.full_like(scale, symmetric_zero_point(bits))


def _keep_finite(scale: Tensor, bits: int) -> Tensor:
    """Clamp a scale so that one can divide by it, and its values are finite."""
    return scale.clamp(torch.finfo(torch.float32).tiny, torch.finfo(torch.float32).max / 2**bits)


def symmetric_zero_point(bits: int) -> float:
    """Return 2^(bits − 1), the code of zero; ½ at one bit, whose two values are ±scale / 2 (the sign of x)."""
    return 2.0 ** (bits - 1) if bits > 1 else 0.5


def affine_quantize(x: Tensor, scale: Tensor, zero_point: Tensor, bits: int, *, binary: bool = False) -> Tensor:
    """Quantize ``x`` to integer codes; ``binary`` as in :func:`affine_fake_quantize`."""
    quotient = torch.nan_to_num(x.to(working_dtype(x.dtype)) / scale, nan=0.0, posinf=torch.inf, neginf=-torch.inf)
    steps = quotient.floor().add(1.0) if binary else quotient.round().add(zero_point)
    return steps.clamp(0, 2**bits - 1).to(torch.int32)


def affine_dequantize(codes: Tensor, scale: Tensor, zero_point: Tensor) -> Tensor:
    """Turn integer codes into values."""
    return (codes.to(scale.dtype) - zero_point) * scale


def affine_fake_quantize(
    x: Tensor, scale: Tensor, zero_point: Tensor, bits: int, *, binary: bool = False, out: Tensor | None = None
) -> Tensor:
    """Quantize then dequantize, without gradients, in one allocation or none.

    Args:
        x: values.
        scale: positive, broadcastable against ``x``.
        zero_point: broadcastable against ``x``.
        bits: code width.
        binary: quantize to ±scale / 2 by sign; the zero point is ½.
        out: as in ``BaseQuantizer.fake_quantize``.
    """
    # Two bounds one after the other: clamp_ with two one-element tensors takes a path that is not vectorised.
    y = torch.div(x.to(working_dtype(x.dtype)), scale, out=usable_out(x, out))
    y = y.floor_().add_(0.5) if binary else y.round_()
    y = y.clamp_min_(-zero_point).clamp_max_(2**bits - 1 - zero_point).mul_(scale)
    return y.to(x.dtype)


def affine_fake_quantize_with_gradient(
    x: Tensor, scale: Tensor, zero_point: Tensor, bits: int, *, binary: bool = False, clamps_rounded: bool = False
) -> Tensor:
    """Compute the values of :func:`affine_fake_quantize` with straight-through gradients.

    The gradient with respect to ``x`` is one between the bounds and zero outside; the one with respect to ``scale`` is
    LSQ's (Esser et al., "Learned Step Size Quantization", ICLR 2020, equation 3), without its normalisation.

    Args:
        x: values.
        scale: as in :func:`affine_fake_quantize`.
        zero_point: see there.
        bits: see there.
        binary: see there.
        clamps_rounded: what rounds to the least or greatest code counts as between the bounds, as in the code of QDrop
            and APHQ-ViT, where rounded values are clamped; ``binary`` has nothing to round.
    """
    quantized: Tensor = _AffineFakeQuantize.apply(
        x.to(working_dtype(x.dtype)), scale, zero_point, 2**bits - 1, binary, clamps_rounded
    )
    return quantized.to(x.dtype)


class _AffineFakeQuantize(torch.autograd.Function):
    """One node where autograd would make a dozen: training spends as much time here as in products.

    Masks are numbers, as multiplying by a Boolean tensor converts it first.
    """

    @staticmethod
    def forward(
        context: Any,
        x: Tensor,
        scale: Tensor,
        zero_point: Tensor,
        greatest: int,
        binary: bool,
        clamps_rounded: bool,
    ) -> Tensor:
        y = x / scale
        least, most = -zero_point, greatest - zero_point
        if clamps_rounded and not binary:
            clamped = y.clamp_min_(least - 1).clamp_max_(most + 1)  # finite, so that zero times it is zero
            nearest = clamped.round()
            rounded = nearest.clamp_min(least).clamp_max_(most)
            is_inside = (nearest == rounded).to(y.dtype)
        else:
            clamped = y.clamp_min(least).clamp_max_(most)
            is_inside = (y == clamped).to(y.dtype)
            rounded = y.copy_(clamped)
            rounded = rounded.floor_().add_(0.5).clamp_(-0.5, 0.5) if binary else rounded.round_()
        context.save_for_backward(is_inside, clamped, rounded, scale, zero_point)
        return rounded * scale

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = gradients
        is_inside, clamped, rounded, scale, zero_point = context.saved_tensors
        of_x = gradient * is_inside
        of_scale = of_zero_point = None
        if context.needs_input_grad[1]:  # inside by the rounding error, outside by the bound
            of_scale = (gradient * rounded).sub_(of_x * clamped).sum_to_size(scale.shape)
        if context.needs_input_grad[2]:
            of_zero_point = ((of_x - gradient) * scale).sum_to_size(zero_point.shape)
        return of_x, of_scale, of_zero_point, None, None, None
