"""RepQ-ViT."""

from __future__ import annotations

from typing import ClassVar

from autoq.calibration import CalibrationSettings
from autoq.calibration.transforms.reparameterization import rewritable_norms
from autoq.graph.trace import TracedModel
from autoq.methods._base import BaseMethod
from autoq.methods.bit_widths import BitWidths
from autoq.recipe import OperandConfig


class RepqVit(BaseMethod):
    """LayerNorm outputs as if they had a scale for each channel, base-√2 logarithms after softmax."""

    name: ClassVar[str] = "repq-vit"
    source: ClassVar[str] = "Li et al., RepQ-ViT, ICCV 2023"

    def settings(self, seed: int) -> CalibrationSettings:
        """Take the best of three percentiles, by squared error, as in the authors' code."""
        return CalibrationSettings(observer="best_percentile", seed=seed)

    def reparameterized(self, traced: TracedModel, bits: BitWidths) -> dict[str, int]:
        """Rescale every LayerNorm that feeds linear layers alone (paper, §3.2)."""
        return dict.fromkeys(rewritable_norms(traced), bits.activations)

    def weight(self, bits: int) -> OperandConfig:
        """Quantize affinely, per output channel."""
        return OperandConfig(scheme="uniform", bits=bits, granularity="channel")

    def attention_map(self, bits: int) -> OperandConfig:
        """Quantize to powers of √2 (paper, §3.3)."""
        return OperandConfig(scheme="log_sqrt2", bits=bits)
