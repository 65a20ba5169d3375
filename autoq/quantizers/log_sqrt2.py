"""Logarithmic quantization, base √2."""

from __future__ import annotations

from typing import ClassVar

from autoq.quantizers._log_base import BaseLogQuantizer
from autoq.quantizers._logarithm import LogLevels, log_levels


class LogSqrt2Quantizer(BaseLogQuantizer):
    """value = scale · 2^−(code / 2) − shift, for softmax outputs (Li et al., "RepQ-ViT", ICCV 2023)."""

    scheme: ClassVar[str] = "log_sqrt2"

    def _choose_levels(self, count: int) -> LogLevels:
        return log_levels(count, 1, 2)
