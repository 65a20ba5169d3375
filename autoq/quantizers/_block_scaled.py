"""Formats whose elements share a scale in short blocks, as matrix engines multiply them."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from typing import ClassVar, Self

import torch
from torch import Tensor
from torch.nn import functional

from autoq.quantizers._base import working_dtype
from autoq.quantizers._float_base import BaseFloatQuantizer
from autoq.quantizers._overheads import PARAMETER_BITS
from autoq.quantizers.granularity import OperandLayout
from autoq.recipe import OperandConfig

SCALE_BITS = 8
"""Width of a block's scale, E8M0 or E4M3."""


class BaseBlockScaledQuantizer(BaseFloatQuantizer):
    """Splits the summed axis into blocks of ``block`` consecutive channels, each with a scale of 8 bits.

    The scale of a block of activations follows from its greatest magnitude, input by input; those of a weight are
    parameters, as they need not be what follows from the weight. The last block may be shorter.

    Attributes:
        block: channels that share a scale.
        scale: of a weight, that of each block: of the weight's shape with blocks in place of channels. Of an
            activation, a single 1, as its blocks have the scales that follow from their values.
    """

    block: ClassVar[int]
    qparam_names: ClassVar[tuple[str, ...]] = ("scale",)
    config_fields: ClassVar[tuple[str, ...]] = ()
    scale: Tensor

    @classmethod
    @abstractmethod
    def block_scales(cls, reach: Tensor, tensor_scale: Tensor | None) -> Tensor:
        """Return the scales of blocks, from their greatest magnitudes.

        Args:
            reach: finite, not negative, float32.
            tensor_scale: that of the whole operand, for formats that have one.
        """

    @classmethod
    def tensor_qparams(cls, reach: Tensor) -> dict[str, Tensor]:  # noqa: ARG003
        """Return the parameters that the whole operand has, from its greatest magnitude; none for most formats."""
        return {}

    @classmethod
    def groups_of(cls, config: OperandConfig, layout: OperandLayout, shape: Sequence[int]) -> int:  # noqa: ARG003
        """Return the number of blocks along the summed axis; even one has a scale for each row."""
        return 1 if layout.summed_axis is None else math.ceil(shape[layout.summed_axis] / cls.block)

    @classmethod
    def assignment_bops(cls, config: OperandConfig, elements: int, entries: int) -> int:  # noqa: ARG003
        """Count elements × bits: the greatest magnitude of each block is found by comparing all."""
        return elements * config.bits

    @classmethod
    def parameter_bits(cls, config: OperandConfig, layout: OperandLayout, shape: Sequence[int]) -> int:
        """Count 8 bits a block, and 32 for each parameter of the whole operand."""
        whole = len(cls.qparam_names) - 1
        return math.prod(cls.range_shape(config, layout, shape)) * SCALE_BITS + PARAMETER_BITS * whole

    @classmethod
    def range_shape(cls, config: OperandConfig, layout: OperandLayout, shape: Sequence[int]) -> tuple[int, ...]:
        """Return, for a weight, its shape with blocks in place of the summed channels; a single entry otherwise."""
        if not layout.is_weight or layout.summed_axis is None:
            return (1,) * layout.ndim
        blocks = list(shape)
        blocks[layout.summed_axis] = cls.groups_of(config, layout, shape)
        return tuple(blocks)

    @classmethod
    def from_range(cls, config: OperandConfig, layout: OperandLayout, lower: Tensor, upper: Tensor) -> Self:
        """Give a weight's blocks scales by their greatest magnitudes; activations need the greatest of all."""
        reach = torch.maximum(lower.detach().abs(), upper.detach().abs()).float()
        whole = cls.tensor_qparams(reach.amax())
        scale = cls.block_scales(reach, *whole.values()) if layout.is_weight else torch.ones_like(reach)
        return cls(config, layout, {"scale": scale, **whole})

    @classmethod
    def in_blocks(cls, x: Tensor, layout: OperandLayout) -> Tensor:
        """Return ``x`` with blocks in place of its summed channels, and the channels of each, padded by 0, last."""
        axis = layout.summed_axis
        assert axis is not None  # noqa: S101 - checked when a quantizer is made
        channels = x.movedim(axis, -1)
        padded = functional.pad(channels, (0, -channels.shape[-1] % cls.block))
        # Channels in a block come to stand behind all axes, blocks where channels were.
        return padded.reshape(*padded.shape[:-1], padded.shape[-1] // cls.block, cls.block).movedim(-2, axis - 1)

    @classmethod
    def reaches(cls, x: Tensor, layout: OperandLayout) -> Tensor:
        """Return the greatest magnitude of each block (float32), of the shape of ``x`` with blocks for channels."""
        finite = torch.finfo(torch.float32).max
        magnitudes = x.detach().to(working_dtype(x.dtype)).abs().nan_to_num_(0.0, finite)
        return cls.in_blocks(magnitudes, layout).amax(-1).clamp_(max=finite).float()

    def assign(self, x: Tensor) -> Tensor | None:
        """Return the steps (float32) of the entries of an activation; None for weights, which have theirs."""
        return None if self.layout.is_weight else self.steps(x)

    def steps(self, x: Tensor) -> Tensor:
        """Return the scale of each entry's block, of the shape of ``x``; of activations, as it follows from them."""
        whole = self._whole()
        scales = self.scale if self.layout.is_weight else self.block_scales(self.reaches(x, self.layout), *whole)
        for tensor_scale in whole:
            scales = scales * tensor_scale
        return scales.repeat_interleave(self.block, self._axis).narrow(self._axis, 0, x.shape[self._axis])

    def dequantize(self, codes: Tensor, groups: Tensor | None = None) -> Tensor:
        """Return the values of codes; ``groups`` is needed for activations.

        Raises:
            ValueError: ``groups`` is missing.
        """
        if groups is None and not self.layout.is_weight:
            raise ValueError(f"codes of {self.scheme} have no value without their scales: pass assign(x)")
        return super().dequantize(codes, groups)

    def _whole(self) -> tuple[Tensor, ...]:
        """Return the parameters of the whole operand."""
        return tuple(getattr(self, name) for name in self.qparam_names[1:])

    @property
    def _axis(self) -> int:
        axis = self.layout.summed_axis
        assert axis is not None  # noqa: S101 - checked when it was made
        return axis

    def _prepare(self) -> None:
        super()._prepare()
        is_possible = self.layout.summed_axis is not None
        self._require(is_possible, "the operand has no channels that every output sums over; use uniform")
        self._require(bool((self.scale > 0).all()), f"scale must be positive, the least is {self.scale.min():g}")
        is_shaped = self.scale.ndim == self.layout.ndim and (self.layout.is_weight or self.scale.numel() == 1)
        self._require(is_shaped, f"parameter 'scale' has shape {tuple(self.scale.shape)}; use range_shape")
