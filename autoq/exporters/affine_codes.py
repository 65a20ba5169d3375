"""Codes of affine operands in the containers of 8 bits that other tools compute with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from autoq.graph.insert import OperandKey
from autoq.quantizers import BaseQuantizer, UniformQuantizer
from autoq.scoring.quantized_module import QuantizedModule

Container = Literal["int8", "uint8"]
_LEAST = {"int8": -128, "uint8": 0}
_GREATEST = 255
SAFE_WEIGHT_BITS = 7
"""Of weights in int8: two products of these with activations in uint8 fit the 16 bits that AVX2 adds them up in."""


@dataclass(frozen=True)
class AffineCodes:
    """What (code − zero_point) · scale means in a container of 8 bits.

    Attributes:
        container: type of the codes.
        scale: one number, or one an output channel.
        zero_point: in the container, of the shape of ``scale``.
        least: lowest code.
        greatest: highest code.
        codes: of a weight, in its shape; None: an activation.
        axis: of a weight's output channels.
    """

    container: Container
    scale: Tensor
    zero_point: Tensor
    least: int
    greatest: int
    codes: Tensor | None = None
    axis: int = 0

    @property
    def bits(self) -> int:
        """Width of a code."""
        return (self.greatest - self.least).bit_length()

    @property
    def has_zero(self) -> bool:
        """Whether zero is one of the codes, in all channels."""
        return bool((self.zero_point.clamp(self.least, self.greatest) == self.zero_point).all())

    @property
    def is_clipped(self) -> bool:
        """Whether fewer codes are used than the container has."""
        return self.greatest - self.least < _GREATEST


def affine_codes(module: QuantizedModule, key: OperandKey) -> AffineCodes | str:
    """Return the codes of an operand, in the basis that its site multiplies in, or why it has none of 8 bits.

    Activations have codes of uint8. Weights have them too, but of int8 up to 7 bits, which adds up faster and, at that
    width, without saturation on processors with AVX2.

    Args:
        module: a quantized model.
        key: one of its operands.
    """
    quantizer, codes = module.quantizers[key], module.codes.get(key)
    if (reason := _objection(quantizer)) is not None:
        return reason
    scale, zero_point = _grid(quantizer)
    bits = quantizer.config.bits
    container = "uint8" if codes is None else weight_container(bits)
    lowest = min(0, int(zero_point.min()))  # zero points may lie outside the codes
    if max(2**bits - 1, int(zero_point.max())) - lowest > _GREATEST:
        return "its zero point is too far from its codes"
    shift = -lowest
    if container == "int8":
        shift = -(2 ** (bits - 1)) if lowest == 0 and int(zero_point.max()) <= 127 else _LEAST["int8"] - lowest
    return AffineCodes(
        container=container,
        scale=scale,
        zero_point=(zero_point + shift).to(getattr(torch, container)),
        least=shift,
        greatest=shift + 2**bits - 1,
        codes=None if codes is None else (codes.cpu().int() + shift).to(getattr(torch, container)),
        axis=_axis(quantizer),
    )


def centred_codes(module: QuantizedModule, key: OperandKey) -> AffineCodes | str:
    """Return the codes of an operand from −2^(bits − 1) to 2^(bits − 1) − 1, or why it has none of 8 bits or less.

    So have tools them whose integers are signed and of any width.

    Args:
        module: a quantized model.
        key: one of its operands.
    """
    quantizer, codes = module.quantizers[key], module.codes.get(key)
    if (reason := _objection(quantizer)) is not None:
        return reason
    if quantizer.config.hadamard_block > 1:
        return "its codes are of its product with a Hadamard matrix"
    scale, zero_point = _grid(quantizer)
    half = 2 ** (quantizer.config.bits - 1)
    zero_point = zero_point - half
    if int(zero_point.min()) < _LEAST["int8"] or int(zero_point.max()) > _LEAST["int8"] + _GREATEST:
        return "its zero point is too far from its codes"
    stored = None if codes is None else (codes.cpu().int() - half).to(torch.int8)
    return AffineCodes("int8", scale, zero_point.to(torch.int8), -half, half - 1, stored, _axis(quantizer))


def weight_container(bits: int) -> Container:
    """Return the type that codes of weights are kept in."""
    return "int8" if bits <= SAFE_WEIGHT_BITS else "uint8"


def _axis(quantizer: BaseQuantizer) -> int:
    """Return the axis of output channels of a weight."""
    return quantizer.layout.channel_axis % quantizer.layout.ndim


def _grid(quantizer: BaseQuantizer) -> tuple[Tensor, Tensor]:
    """Return the scales and zero points of a uniform quantizer, each of shape (scales,)."""
    grid = quantizer.code_grid()
    assert grid is not None  # noqa: S101 - a uniform quantizer has one
    scale, zero_point = (value.detach().cpu().flatten() for value in grid)
    return scale, zero_point


def _objection(quantizer: BaseQuantizer) -> str | None:
    """Say why a quantizer's codes are not affine, of 8 bits, with one scale a tensor (weights: an output channel)."""
    config = quantizer.config
    if not isinstance(quantizer, UniformQuantizer):
        return f"scheme {config.scheme}"
    if config.bits > 8 or quantizer.is_binary:
        return f"{config.bits} bits"
    kept = ("tensor", "channel") if quantizer.layout.is_weight else ("tensor",)
    if config.granularity not in kept and quantizer.scale.numel() > 1:
        return f"one scale a {config.granularity}"
    return None
