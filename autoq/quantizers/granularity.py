"""Where an operand keeps its channels, heads and images, and the shapes of the parameters that follow from it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

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
        instance_group_axis: axis whose entries (channels of a linear input, token rows of a softmax attention map) are
            assigned to instance-aware groups at run time, or None where such groups make no sense.
        group_axis: axis that static groups split into consecutive runs: the channels that are summed over.
        instances_per_image: leading-dimension entries that one image makes (windows of a windowed attention), 1 elsewhere;
            0 for weights, which have no batch.
    """

    ndim: int
    channel_axis: int
    head_axis: int | None = None
    group_axis: int | None = None
    instance_group_axis: int | None = None
    instances_per_image: int = 1

    def parameter_shape(self, shape: Sequence[int], config: OperandConfig) -> tuple[int, ...]:
        """Shape, broadcastable against ``shape``, of the parameters of a static quantizer.

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
        if config.granularity == "channel":
            kept[self.channel_axis] = shape[self.channel_axis]
        elif config.granularity == "head":
            if self.head_axis is None:
                raise CalibrationError("granularity 'head' needs an operand with attention heads; use 'tensor'")
            kept[self.head_axis] = shape[self.head_axis]
        elif config.granularity == "group":
            if self.group_axis is None:
                raise CalibrationError("granularity 'group' needs an operand with a summed channel axis; use 'tensor'")
            if self.instances_per_image == 0:
                kept[self.channel_axis] = shape[self.channel_axis]
            kept[self.group_axis] = min(config.groups, shape[self.group_axis])
        return tuple(kept)
