"""Power-of-two factors: one scale a layer, multiplied by a small power of two for each channel."""

from __future__ import annotations

from typing import ClassVar, Self

import torch
from torch import Tensor

from autoq.quantizers._affine import (
    affine_dequantize,
    affine_fake_quantize,
    affine_fake_quantize_with_gradient,
    affine_quantize,
    choose_affine_qparams,
)
from autoq.quantizers._base import BaseQuantizer, IntegerOperation
from autoq.quantizers.granularity import OperandLayout
from autoq.recipe import OperandConfig

GREATEST_EXPONENT = 3
"""FQ-ViT's K: the factors are 1, 2, 4 and 8."""


class PowerOfTwoFactorQuantizer(BaseQuantizer):
    """FQ-ViT's quantizer of LayerNorm inputs (Lin et al., "FQ-ViT", IJCAI 2022, §4.1, equations 8 to 10).

    With one scale s and one zero point a layer and a factor 2^α, α in 0..3, for each channel::

        code  = clamp(round(x / (2^α · s)) + zero_point, 0, 2^bits − 1)
        value = (code − zero_point) · 2^α · s

    Every value is a whole multiple of s, from which ``IntegerLayerNorm`` computes. ``config.granularity`` is not read.

    Attributes:
        scale: s, of as many dimensions as the operand, all of size one.
        zero_point: code of zero, a whole number in 0..2^bits − 1, of the same shape.
        exponent: α of each channel, along ``layout.channel_axis``, other dimensions of size one; or one for all.
    """

    scheme: ClassVar[str] = "power_of_two_factor"
    qparam_names: ClassVar[tuple[str, ...]] = ("scale", "zero_point", "exponent")
    config_fields: ClassVar[tuple[str, ...]] = ()
    is_affine: ClassVar[bool] = True
    integer_operation: ClassVar[IntegerOperation | None] = "layer_norm"
    scale: Tensor
    zero_point: Tensor
    exponent: Tensor
    _factor: Tensor

    @classmethod
    def from_range(cls, config: OperandConfig, layout: OperandLayout, lower: Tensor, upper: Tensor) -> Self:
        """Use one range for the whole operand, α = 3 everywhere: uniform per tensor, until factors are solved."""
        lower, upper = (bound.reshape((1,) * layout.ndim) for bound in (lower.amin(), upper.amax()))
        scale, zero_point = choose_factor_qparams(lower, upper, config.bits)
        exponent = torch.full_like(scale, GREATEST_EXPONENT)
        return cls(config, layout, {"scale": scale, "zero_point": zero_point, "exponent": exponent})

    def affine_qparams(self) -> tuple[Tensor, Tensor]:
        """Return 2^α · s of each channel, and the zero point that they share."""
        scale = self._step().detach()
        return scale, self.zero_point.detach().expand_as(scale)

    def quantize(self, x: Tensor, groups: Tensor | None = None) -> Tensor:  # noqa: ARG002
        """Quantize to integer codes 0..2^bits − 1."""
        return affine_quantize(x, self._step(), self.zero_point, self.config.bits)

    def dequantize(self, codes: Tensor, groups: Tensor | None = None) -> Tensor:  # noqa: ARG002
        """Return (code − zero_point) · 2^α · s."""
        return affine_dequantize(codes, self._step(), self.zero_point)

    def fake_quantize(self, x: Tensor, out: Tensor | None = None) -> Tensor:
        """Quantize and dequantize with each channel's step."""
        return affine_fake_quantize(x, self._step(), self.zero_point, self.config.bits, out=out)

    def _fake_quantize_with_gradient(self, x: Tensor) -> Tensor:
        return affine_fake_quantize_with_gradient(x, self._step(), self.zero_point, self.config.bits)

    def _step(self) -> Tensor:
        """Return 2^α · s, without rounding; learned with s."""
        return self.scale * self._factor

    def _prepare(self) -> None:
        ndim = self.layout.ndim
        for name in ("scale", "zero_point"):
            shape = tuple(getattr(self, name).shape)
            self._require(shape == (1,) * ndim, f"{name} must have shape {(1,) * ndim}, got {shape}")
        shape = tuple(self.exponent.shape)
        channel_axis = self.layout.channel_axis % ndim
        self._require(
            len(shape) == ndim and all(size == 1 for axis, size in enumerate(shape) if axis != channel_axis),
            f"exponent must have {ndim} dimensions, all but the channels of size one, got shape {shape}",
        )
        self._require(bool(self.scale > 0), f"scale must be positive, got {float(self.scale):g}")
        zero_point, greatest = float(self.zero_point), 2**self.config.bits - 1
        self._require(
            zero_point == round(zero_point) and 0 <= zero_point <= greatest,
            f"zero_point must be a whole number in 0..{greatest}, got {zero_point:g}",
        )
        is_exponent = (self.exponent == self.exponent.round()) & (self.exponent >= 0)
        is_exponent &= self.exponent <= GREATEST_EXPONENT
        self._require(bool(is_exponent.all()), f"exponent must be whole numbers in 0..{GREATEST_EXPONENT}")
        self.register_buffer("_factor", torch.exp2(self.exponent), persistent=False)


def choose_factor_qparams(lower: Tensor, upper: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    """Choose the scale s and zero point of a layer from its range: with α = 3 the codes span it.

    The range is widened to include zero, without which a zero point within 0..2^bits − 1 could not hold it.

    Args:
        lower: least values.
        upper: greatest values.
        bits: code width.

    Returns:
        s = (upper − lower) / (2^bits − 1) / 8 and round(−lower / (8 · s)), of the bounds' shape, as float32.
    """
    greatest_factor = 2**GREATEST_EXPONENT
    scale, zero_point = choose_affine_qparams(lower, upper, bits, include_zero=True)
    return (scale / greatest_factor).clamp(min=torch.finfo(torch.float32).tiny), zero_point
