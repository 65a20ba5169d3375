"""AdaLog."""

from __future__ import annotations

from typing import ClassVar

from autoq.calibration import CalibrationSettings
from autoq.calibration.transforms.reparameterization import rewritable_norms
from autoq.graph.trace import TracedModel
from autoq.methods._base import BaseMethod
from autoq.methods.bit_widths import BitWidths
from autoq.recipe import OperandConfig


class AdaLog(BaseMethod):
    """Logarithms of a fitted base after softmax and GELU; everything fitted to the layer's output by FPCS."""

    name: ClassVar[str] = "adalog"
    source: ClassVar[str] = "Wu et al., AdaLog, ECCV 2024"

    def settings(self, seed: int) -> CalibrationSettings:
        """Search by fast progressive combining (paper, §3.3)."""
        return CalibrationSettings(observer="fpcs", seed=seed)

    def reparameterized(self, traced: TracedModel, bits: BitWidths) -> dict[str, int]:
        """Rescale the LayerNorms that RepQ-ViT does."""
        return dict.fromkeys(rewritable_norms(traced), bits.activations)

    def weight(self, bits: int) -> OperandConfig:
        """Quantize affinely, per output channel."""
        return OperandConfig(scheme="uniform", bits=bits, granularity="channel")

    def gelu_output(self, bits: int) -> OperandConfig:
        """Quantize logarithmically, shifted to be non-negative (paper, §3.2)."""
        return OperandConfig(scheme="adalog", bits=bits)

    def attention_operand(self, bits: int) -> OperandConfig:
        """Quantize affinely, one range a head."""
        return OperandConfig(scheme="uniform", bits=bits, granularity="head")

    def attention_map(self, bits: int) -> OperandConfig:
        """Quantize logarithmically, at scale one."""
        return OperandConfig(scheme="adalog", bits=bits)
