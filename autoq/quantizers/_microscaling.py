"""MX formats: blocks of 32 elements under a power of two."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from autoq.quantizers._block_scaled import BaseBlockScaledQuantizer
from autoq.quantizers._float_format import floor_power_of_two

_LEAST, _GREATEST = 2.0**-126, 2.0**127
"""Scales of E8M0 that are normal numbers in float32."""


class BaseMicroscalingQuantizer(BaseBlockScaledQuantizer):
    """An MX format (Open Compute Project, "OCP Microscaling Formats (MX) Specification", version 1.0, 2023).

    The scale of a block is 2^(⌊log2 max |x|⌋ − emax), emax being the exponent of the element format's greatest value
    (section 6.3): elements beyond that value saturate.
    """

    block: ClassVar[int] = 32
    number_format: ClassVar[str] = "mx"
    scale_significand_bits: ClassVar[int] = 1

    @classmethod
    def block_scales(cls, reach: Tensor, tensor_scale: Tensor | None = None) -> Tensor:  # noqa: ARG003
        """Return powers of two, from the greatest magnitude of each block."""
        return (floor_power_of_two(reach) * 2.0**-cls.element.greatest_exponent).clamp_(_LEAST, _GREATEST)
