"""Logarithmic quantization, base √2."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

from autoq.quantizers._label import SchemeLabel
from autoq.quantizers._log_base import BaseLogQuantizer
from autoq.quantizers._logarithm import LogLevels, log_levels
from autoq.recipe import OperandConfig


class LogSqrt2Quantizer(BaseLogQuantizer):
    """value = scale · 2^−(code / 2) − shift, for softmax outputs (Li et al., "RepQ-ViT", ICCV 2023)."""

    scheme: ClassVar[str] = "log_sqrt2"
    log_base_denominator: ClassVar[int] = 2
    has_unit_scale_after_softmax: ClassVar[bool] = False

    @classmethod
    def label(cls, config: OperandConfig) -> SchemeLabel:
        """Name the base: √2."""
        return replace(super().label(config), log_base="√2")

    def choose_levels(self, count: int) -> LogLevels:
        """Return the first levels."""
        return log_levels(count, 1, self.log_base_denominator)
