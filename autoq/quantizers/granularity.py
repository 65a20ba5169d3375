"""Where an operand keeps its channels, heads and images, and the shapes of the parameters that follow from it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from autoq.errors import CalibrationError
from autoq.recipe import OperandConfig


@dataclass(frozen=True)
class OperandLayout:
    """The axes of one operand, counted from the last (−1), so that they do not depend on leading dimensions.

    Attributes:
        ndim: number of dimensions of the operand.
        channel_axis: axis of the channels: −1 for the input of ``linear``, ``-ndim`` (output channels) for a weight, −3
            for the input of ``conv2d``.
        head_axis: axis of the attention heads (operands of attention products), or None.
        group_axis: axis that static groups split into consecutive runs: the channels that are summed over.
        instance_group_axis: axis whose entries (channels of a linear input, token rows of a softmax attention map) are
            assigned to instance-aware groups at run time, or None where such groups make no sense.
        summed_axis: axis of the channels that each output sums over, all of them: those that an orthogonal transform of
            both operands may mix; None where there is none (grouped convolutions) or it is not known (einsum).
        instances_per_image: leading-dimension entries that one image makes (windows of a windowed attention), 1
            elsewhere; 0 for weights, which have no batch.
    """

    ndim: int
    channel_axis: int
    head_axis: int | None = None
    group_axis: int | None = None
    instance_group_axis: int | None = None
    instances_per_image: int = 1
    summed_axis: int | None = None

    @property
    def is_weight(self) -> bool:
        """Whether the operand is a parameter, the same for every image."""
        return self.instances_per_image == 0

    def rows(self, weight: Tensor) -> Tensor:
        """Return a weight by output channels: (outputs, elements), the elements of an output in their order."""
        return self.by_output(weight).flatten(1)

    def by_output(self, weight: Tensor) -> Tensor:
        """Exchange the axes of a weight, or of its parameters, so that outputs come first; also the way back."""
        return weight.transpose(0, self.channel_axis % self.ndim)

    def kept_axes(self, config: OperandConfig) -> tuple[int, ...]:
        """Return the axes along which the parameters of a static quantizer vary; along all others they are shared.

        Raises:
            CalibrationError: the granularity does not fit this operand.
        """
        if config.granularity == "channel":
            return (self.channel_axis,)
        if config.granularity == "head":
            if self.head_axis is None:
                raise CalibrationError("granularity 'head' needs an operand with attention heads; use 'tensor'")
            return (self.head_axis,)
        if config.granularity == "group":
            if self.group_axis is None:
                raise CalibrationError("granularity 'group' needs an operand with a summed channel axis; use 'tensor'")
            return (self.channel_axis, self.group_axis) if self.is_weight else (self.group_axis,)
        return ()

    def parameter_shape(self, shape: Sequence[int], config: OperandConfig) -> tuple[int, ...]:
        """Shape of the parameters of a static quantizer for an operand of this ``shape``.

        Broadcastable against ``shape``, except that ``group`` leaves one entry a group (see :func:`expand_groups`).

        ========== ======================= ==================== =================================
        granularity kept axes              (B, T, C) gives      (B, H, T, D), heads on −3, gives
        ========== ======================= ==================== =================================
        tensor     none                    (1, 1, 1)            (1, 1, 1, 1)
        channel    channel_axis            (1, 1, C)            (1, 1, 1, D)
        head       head_axis               —                    (1, H, 1, 1)
        group      channel_axis (weights)  (1, 1, groups)       (1, 1, 1, groups)
                   and group_axis, shrunk to ``groups``
        ========== ======================= ==================== =================================

        Raises:
            CalibrationError: the granularity does not fit this operand.
        """
        kept = [1] * self.ndim
        for axis in self.kept_axes(config):
            kept[axis] = shape[axis]
        if config.granularity == "group" and self.group_axis is not None:
            kept[self.group_axis] = min(config.groups, shape[self.group_axis])
        return tuple(kept)


def count_groups(config: OperandConfig, axis: int | None, shape: Sequence[int]) -> int:
    """Return how many groups an operand can have along an axis: one an entry at most, one without such an axis."""
    return 1 if axis is None else min(config.groups, shape[axis])


def group_ids(channels: int, groups: int, device: torch.device | None = None) -> Tensor:
    """Return the static group floor(c · groups / channels) of each channel c: runs of nearly equal length."""
    return torch.div(torch.arange(channels, device=device) * groups, channels, rounding_mode="floor")


def expand_groups(parameter: Tensor, channels: int, axis: int) -> Tensor:
    """Repeat a parameter that has one entry a group along ``axis`` so that it has one entry a channel."""
    return parameter.index_select(axis, group_ids(channels, parameter.shape[axis], parameter.device))
