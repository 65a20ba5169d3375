"""Logarithmic quantization, base 2."""

from __future__ import annotations

from typing import ClassVar

from autoq.quantizers._log_base import BaseLogQuantizer
from autoq.quantizers._logarithm import LogLevels, log_levels


class Log2Quantizer(BaseLogQuantizer):
    """value = scale · 2^−code − shift: powers of two, for softmax outputs (Lin et al., "FQ-ViT", IJCAI 2022)."""

    scheme: ClassVar[str] = "log2"

    def choose_levels(self, count: int) -> LogLevels:
        """Return the first levels."""
        return log_levels(count, 1, 1)
