"""Uniform quantization: equally spaced values, the parameters fixed by calibration."""

from __future__ import annotations

from typing import ClassVar, Self

from torch import Tensor

from autoq.quantizers._affine import (
    affine_dequantize,
    affine_fake_quantize,
    affine_fake_quantize_with_gradient,
    affine_quantize,
    choose_affine_qparams,
    choose_symmetric_qparams,
    symmetric_zero_point,
)
from autoq.quantizers._base import BaseQuantizer, OutputSearch
from autoq.quantizers._label import SchemeLabel, group_label
from autoq.quantizers.granularity import OperandLayout
from autoq.recipe import OperandConfig


class UniformQuantizer(BaseQuantizer):
    """code = clamp(round(x / scale) + zero_point, 0, 2^bits − 1); value = (code − zero_point) · scale.

    Affine, or symmetric with the zero point at 2^(bits − 1). A symmetric quantizer of one bit has the two values
    ±scale / 2 and no zero. Parameters are shared as ``config.granularity`` says.

    Attributes:
        scale: step between values, of shape ``layout.parameter_shape(...)``.
        zero_point: code of zero, a whole number (½ for symmetric quantizers of one bit), of the same shape.
        clamps_rounded: which gradient it has (:func:`affine_fake_quantize_with_gradient`); values are the same.
    """

    scheme: ClassVar[str] = "uniform"
    qparam_names: ClassVar[tuple[str, ...]] = ("scale", "zero_point")
    config_fields: ClassVar[tuple[str, ...]] = ("granularity", "symmetric")
    is_affine: ClassVar[bool] = True
    output_search: ClassVar[OutputSearch | None] = "scale_and_zero_point"
    scale: Tensor
    zero_point: Tensor
    clamps_rounded: bool = False

    @classmethod
    def from_range(cls, config: OperandConfig, layout: OperandLayout, lower: Tensor, upper: Tensor) -> Self:
        """Spread the codes between two bounds, the range widened to include zero (see :class:`BaseQuantizer`)."""
        if config.symmetric:
            scale, zero_point = choose_symmetric_qparams(lower, upper, config.bits)
        else:
            scale, zero_point = choose_affine_qparams(lower, upper, config.bits, include_zero=True)
        return cls(config, layout, {"scale": scale, "zero_point": zero_point})

    @classmethod
    def label(cls, config: OperandConfig) -> SchemeLabel:
        """Leave it unmarked but for groups: ``g8``."""
        return group_label(config) if config.groups > 1 else SchemeLabel("", "Unmarked: uniform.")

    @classmethod
    def in_basis(cls, config: OperandConfig, block: int) -> OperandConfig:
        """Return the same configuration, of scheme ``hadamard`` for blocks of two channels or more."""
        return config if block == 1 else config.model_copy(update={"scheme": "hadamard", "hadamard_block": block})

    def affine_qparams(self) -> tuple[Tensor, Tensor] | None:
        """Return scale and zero point; the zero point is ½ for symmetric quantizers of one bit."""
        return self.scale.detach(), self.zero_point.detach()

    @property
    def learnable(self) -> tuple[str, ...]:
        """The scale."""
        return ("scale",)

    def quantize(self, x: Tensor, groups: Tensor | None = None) -> Tensor:  # noqa: ARG002
        """Quantize to integer codes 0..2^bits − 1."""
        scale, zero_point = self.spread(x)
        return affine_quantize(x, scale, zero_point, self.config.bits, binary=self.is_binary)

    def dequantize(self, codes: Tensor, groups: Tensor | None = None) -> Tensor:  # noqa: ARG002
        """Return (code − zero_point) · scale."""
        return affine_dequantize(codes, *self.spread(codes))

    def spread(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return scale and zero point, broadcastable against ``x``."""
        return self._broadcast(self.scale, x), self._broadcast(self.zero_point, x)

    @property
    def is_binary(self) -> bool:
        """Whether its two values are ±scale / 2."""
        return self.config.symmetric and self.config.bits == 1

    def fake_quantize(self, x: Tensor, out: Tensor | None = None) -> Tensor:
        """Divide, round, clamp and multiply, in place but for the first."""
        scale, zero_point = self.spread(x)
        return affine_fake_quantize(x, scale, zero_point, self.config.bits, binary=self.is_binary, out=out)

    def _fake_quantize_with_gradient(self, x: Tensor) -> Tensor:
        scale, zero_point = self.spread(x)
        return affine_fake_quantize_with_gradient(
            x,
            scale,
            zero_point,
            self.config.bits,
            binary=self.is_binary,
            clamps_rounded=self.clamps_rounded,
        )

    def _prepare(self) -> None:
        self._require_static_shape("scale", "zero_point")
        self._require(bool((self.scale > 0).all()), f"scale must be positive, the least is {self.scale.min():g}")
        self._require(
            self.scale.shape == self.zero_point.shape,
            f"scale and zero_point have shapes {tuple(self.scale.shape)} and {tuple(self.zero_point.shape)}",
        )
        if self.config.symmetric:
            expected = symmetric_zero_point(self.config.bits)
            is_valid = (self.zero_point == expected).all()
            self._require(bool(is_valid), f"zero_point must be {expected:g} for symmetric {self.config.bits}-bit codes")
        else:
            is_whole = (self.zero_point == self.zero_point.round()).all()
            self._require(bool(is_whole), "zero_point must be whole numbers")
