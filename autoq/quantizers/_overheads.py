"""What a scheme costs besides its products: parameters, rescaling, and what is found at run time."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

from autoq.quantizers.granularity import OperandLayout
from autoq.recipe import OperandConfig

PARAMETER_BITS = 32
"""Width of a scale, and of every parameter of a quantizer but the zero point, which is as wide as a code."""
DISTANCE_BITS = 16
"""Width at which instance-aware assignment compares distances."""


class Overheads:
    """What ``autoq.cost`` asks a scheme; a base class of :class:`~autoq.quantizers.BaseQuantizer`.

    Attributes:
        qparam_names: names of the parameters.
        scale_significand_bits: of a group's scale, by which the sum over the group is multiplied: 8 for a whole number,
            1 for a power of two, which shifts it.
    """

    qparam_names: ClassVar[tuple[str, ...]]
    scale_significand_bits: ClassVar[int] = 8

    @classmethod
    def groups_of(cls, config: OperandConfig, layout: OperandLayout, shape: Sequence[int]) -> int:  # noqa: ARG003
        """Return how many groups of channels have scales of their own, so that sums over each are rescaled; 0: none.

        Args:
            config: of this scheme.
            layout: where the operand's channels, heads and images lie.
            shape: of the operand.
        """
        return config.groups if config.groups > 1 else 0

    @classmethod
    def assignment_bops(cls, config: OperandConfig, elements: int, entries: int) -> int:  # noqa: ARG003
        """Count the bit operations of finding the scales of an activation at run time; 0 where calibration fixes them.

        Args:
            config: of this scheme.
            elements: of the operand, per image.
            entries: channels or rows, per image, that are assigned to groups.
        """
        return 0

    @classmethod
    def parameter_bits(cls, config: OperandConfig, layout: OperandLayout, shape: Sequence[int]) -> int:
        """Count the bits of the parameters: 32 for a scale, the width of a code for a zero point that is not fixed."""
        entries = math.prod(cls.range_shape(config, layout, shape))
        widths = {"zero_point": 0 if config.symmetric else config.bits}
        return entries * sum(widths.get(name, PARAMETER_BITS) for name in cls.qparam_names)

    @classmethod
    def range_shape(cls, config: OperandConfig, layout: OperandLayout, shape: Sequence[int]) -> tuple[int, ...]:
        """Return the shape of the bounds that ``from_range`` takes for an operand of a shape.

        Raises:
            CalibrationError: the granularity does not fit the operand.
        """
        return layout.parameter_shape(shape, config)
