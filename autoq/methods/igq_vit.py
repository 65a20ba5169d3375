"""IGQ-ViT."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from autoq.calibration import CalibrationSettings
from autoq.methods._base import BaseMethod, Difference
from autoq.recipe import OperandConfig

_GROUPS = 8
_PERCENTILE = 99.9
"""Of 99.5, 99.9 and 99.99, the one that served a small vision transformer best at 4 bits; 3 bits prefer 99.5."""


class IgqVit(BaseMethod):
    """Channels of layer inputs and rows of attention maps go to one of several quantizers, image by image.

    The same number of groups everywhere; allocating them under a budget is ``autoq search --space groups_only``. The
    authors have published no code. The paper gives the groups, how members are assigned and the budget on groups. What
    it leaves open is chosen here: bounds at a percentile of a group's members, which need not include zero (ranges of
    weights, queries, keys and values do), the overhead of groups as in ``autoq.cost``, and one range (queries, keys,
    values: one a head) where an operand has no axis to group.
    """

    name: ClassVar[str] = "igq-vit"
    source: ClassVar[str] = "Moon et al., IGQ-ViT, CVPR 2024"
    detection_images: ClassVar[int | None] = 1
    differences: ClassVar[tuple[Difference, ...]] = (Difference("detectors: images", "one (section 4.1)", "32"),)
    taken_options: ClassVar[Mapping[str, tuple[object, ...]]] = {
        "groups": (),
        "observer": ("percentile", "min_max", "mse"),
    }

    def settings(self, seed: int) -> CalibrationSettings:
        """Put bounds at percentiles of the values, of weights and of a group's members."""
        observer = self.options.observer or "percentile"
        return CalibrationSettings.from_json({"observer": observer, "percentile": _PERCENTILE, "seed": seed})

    def weight(self, bits: int) -> OperandConfig:
        """Quantize affinely, per output channel."""
        return OperandConfig(scheme="uniform", bits=bits, granularity="channel")

    def layer_input(self, bits: int) -> OperandConfig:
        """Group channels."""
        return OperandConfig(scheme="instance_groups", bits=bits, groups=self.options.groups or _GROUPS)

    def attention_operand(self, bits: int) -> OperandConfig:
        """Quantize affinely, one range a head."""
        return OperandConfig(scheme="uniform", bits=bits, granularity="head")

    def attention_map(self, bits: int) -> OperandConfig:
        """Group rows (tokens)."""
        return OperandConfig(scheme="instance_groups", bits=bits, groups=self.options.groups or _GROUPS)
