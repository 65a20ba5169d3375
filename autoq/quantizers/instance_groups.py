"""Instance-aware group quantization: which quantizer a channel or row gets is decided for each image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Self

from torch import Tensor

from autoq.quantizers._affine import (
    affine_dequantize,
    affine_fake_quantize,
    affine_fake_quantize_with_gradient,
    affine_quantize,
    choose_affine_qparams,
)
from autoq.quantizers._base import BaseQuantizer
from autoq.quantizers._label import SchemeLabel, group_label
from autoq.quantizers._overheads import DISTANCE_BITS
from autoq.quantizers.granularity import OperandLayout, count_groups
from autoq.quantizers.uniform import UniformQuantizer
from autoq.recipe import OperandConfig


class InstanceGroupQuantizer(BaseQuantizer):
    """IGQ-ViT's quantizer (Moon et al., "Instance-Aware Group Quantization for Vision Transformers", CVPR 2024).

    There are ``config.groups`` affine quantizers. Each entry along ``layout.instance_group_axis`` of each image uses
    the one whose bounds are nearest to the entry's own::

        group = argmin_g (min − lower_g)² + (max − upper_g)²

    An entry is a channel, whose minimum and maximum are over all tokens or pixels of an image (and over all its
    windows, which share one assignment), or a row of a softmax attention map, each row of each head and
    window on its own.
    As an entry uses one quantizer, it holds at most 2^bits distinct values. Zero need not be among them.

    Attributes:
        lower: lower bounds of the groups, of shape (groups,).
        upper: upper bounds of the groups, of shape (groups,).
        scale: step of each group, from its bounds.
        zero_point: code of zero in each group, from its bounds.
    """

    scheme: ClassVar[str] = "instance_groups"
    qparam_names: ClassVar[tuple[str, ...]] = ("lower", "upper")
    config_fields: ClassVar[tuple[str, ...]] = ("groups",)
    lower: Tensor
    upper: Tensor
    scale: Tensor
    zero_point: Tensor

    @classmethod
    def range_shape(cls, config: OperandConfig, layout: OperandLayout, shape: Sequence[int]) -> tuple[int, ...]:  # noqa: ARG003
        """Return (groups,): the groups have bounds of their own."""
        return (config.groups,)

    @classmethod
    def assignment_bops(cls, config: OperandConfig, elements: int, entries: int) -> int:
        """Count the minimum and maximum of every entry, and its distances from the bounds of all groups."""
        return 2 * elements * config.bits + 2 * entries * config.groups * DISTANCE_BITS**2

    @classmethod
    def from_range(cls, config: OperandConfig, layout: OperandLayout, lower: Tensor, upper: Tensor) -> Self:
        """Use the bounds as they are, one a group; a single bound serves all groups."""
        lower, upper = (bound.detach().flatten().expand(config.groups) for bound in (lower, upper))
        return cls(config, layout, {"lower": lower, "upper": upper})

    @classmethod
    def canonical_config(cls, config: OperandConfig, layout: OperandLayout, shape: Sequence[int]) -> OperandConfig:
        """Return ``uniform`` per tensor where there is one group or nothing to group: both are one range for all."""
        groups = count_groups(config, layout.instance_group_axis, shape)
        if groups == 1:
            return OperandConfig(scheme=UniformQuantizer.scheme, bits=config.bits)
        return OperandConfig(scheme=cls.scheme, bits=config.bits, groups=groups)

    @classmethod
    def label(cls, config: OperandConfig) -> SchemeLabel:
        """Mark the number of groups: ``g8``."""
        return group_label(config)

    @property
    def learnable(self) -> tuple[str, ...]:
        """The groups' steps; zero points stay, and bounds follow with :meth:`learned`."""
        return ("scale",)

    def learned(self) -> Self:
        """Make bounds from steps, which may have been learned."""
        scale = self.scale.detach()
        lower = -self.zero_point * scale
        return type(self)(
            self.config, self.layout, {"lower": lower, "upper": lower + (2**self.config.bits - 1) * scale}
        )

    def assign(self, x: Tensor) -> Tensor:
        """Return the group (int64) of each entry, broadcastable against ``x``; arbitrary for entries with NaN."""
        return self.assign_bounds(*entry_bounds(x, self.layout))

    def assign_bounds(self, least: Tensor, greatest: Tensor) -> Tensor:
        """Do the same from the entries' own bounds, as :func:`entry_bounds` returns them."""
        distances = (least.unsqueeze(-1) - self.lower).square() + (greatest.unsqueeze(-1) - self.upper).square()
        return spread_over_windows(distances.argmin(-1), self.layout)

    def quantize(self, x: Tensor, groups: Tensor | None = None) -> Tensor:
        """Quantize to integer codes 0..2^bits − 1 of each entry's own group."""
        groups = self.assign(x) if groups is None else groups
        return affine_quantize(x, self.scale[groups], self.zero_point[groups], self.config.bits)

    def dequantize(self, codes: Tensor, groups: Tensor | None = None) -> Tensor:
        """Return the values of codes; ``groups`` is needed where there are several.

        Raises:
            ValueError: ``groups`` is missing.
        """
        if groups is None:
            if self.config.groups > 1:
                raise ValueError("codes of instance_groups have no value without their groups: pass assign(x)")
            return affine_dequantize(codes, self.scale, self.zero_point)
        return affine_dequantize(codes, self.scale[groups], self.zero_point[groups])

    def fake_quantize(self, x: Tensor, out: Tensor | None = None) -> Tensor:
        """Assign, then quantize each entry with its own group's parameters."""
        groups = self.assign(x)
        return affine_fake_quantize(x, self.scale[groups], self.zero_point[groups], self.config.bits, out=out)

    def _fake_quantize_with_gradient(self, x: Tensor) -> Tensor:
        groups = self.assign(x.detach())
        return affine_fake_quantize_with_gradient(x, self.scale[groups], self.zero_point[groups], self.config.bits)

    def _prepare(self) -> None:
        self._require(self.layout.instance_group_axis is not None, "this operand has no channels or rows to group")
        self._require(
            self.lower.shape == self.upper.shape == (self.config.groups,),
            f"lower and upper must have shape ({self.config.groups},), got {tuple(self.lower.shape)} and "
            f"{tuple(self.upper.shape)}",
        )
        self._require(bool((self.lower <= self.upper).all()), "lower must not be above upper")
        scale, zero_point = choose_affine_qparams(self.lower, self.upper, self.config.bits, include_zero=False)
        self.register_buffer("scale", scale, persistent=False)
        self.register_buffer("zero_point", zero_point, persistent=False)


def entry_bounds(x: Tensor, layout: OperandLayout) -> tuple[Tensor, Tensor]:
    """Find minimum and maximum (float32) of each entry of each image, broadcastable against a window of ``x``."""
    axis = _entry_axis(layout)
    first = 1 if axis == layout.channel_axis else x.ndim + axis + 1
    reduced = [dimension for dimension in range(first, x.ndim) if dimension != x.ndim + axis]
    least, greatest = (x.amin(reduced, True), x.amax(reduced, True)) if reduced else (x, x)
    windows = _windows(layout)
    if windows > 1:
        least = least.reshape(-1, windows, *least.shape[1:]).amin(1)
        greatest = greatest.reshape(-1, windows, *greatest.shape[1:]).amax(1)
    return least.float(), greatest.float()


def spread_over_windows(per_image: Tensor, layout: OperandLayout) -> Tensor:
    """Repeat what an image's windows share once for each of them."""
    windows = _windows(layout)
    return per_image.repeat_interleave(windows, 0) if windows > 1 else per_image


def _entry_axis(layout: OperandLayout) -> int:
    return layout.channel_axis if layout.instance_group_axis is None else layout.instance_group_axis


def _windows(layout: OperandLayout) -> int:
    """Return how many entries of the leading dimension share one assignment."""
    return layout.instances_per_image if _entry_axis(layout) == layout.channel_axis else 1
