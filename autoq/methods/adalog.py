"""AdaLog."""

from __future__ import annotations

from typing import ClassVar

from autoq.calibration import CalibrationSettings
from autoq.calibration.fpcs.settings import FpcsSettings
from autoq.graph.trace import TracedModel
from autoq.methods._base import EVERYTHING, BaseMethod, Difference
from autoq.methods.bit_widths import BitWidths
from autoq.recipe import OperandConfig


class AdaLog(BaseMethod):
    """Logarithms of a fitted base after softmax and GELU; everything fitted to the layer's output by FPCS."""

    name: ClassVar[str] = "adalog"
    detection_images: ClassVar[int | None] = 1
    publishes_float_image: ClassVar[bool] = True
    publishes_float_upsampling: ClassVar[bool] = True
    source: ClassVar[str] = "Wu et al., AdaLog, ECCV 2024"
    differences: ClassVar[tuple[Difference, ...]] = (
        Difference(
            "image; at 8 bits inputs of other convolutions",
            "floating point",
            "8 bits or more",
        ),
        Difference("LayerNorms that are rescaled", "those where weights and activations have the same bits", "all"),
        Difference("channel ranges for the factors", "of least squared error", "least and greatest value, with zero"),
        Difference("lowest level of logarithms", "zero, a (2^b + 1)-th level", "2^b codes"),
        Difference(
            "bases after GELU",
            "the best 8 of all at the first scale, with 16 scales",
            "all, with 4 scales; later rounds begin with the best 8",
        ),
        Difference("steps of FPCS", "6 (paper: 4)", "4"),
        Difference("spans of the first grid", "as they are", "widened to zero"),
        Difference(
            "order",
            "weights and inputs for their own error, then rounds of weights, activations",
            "weights for the layer's output, then rounds of activations, weights",
        ),
        Difference("rounds", "3", "2, which leave layer errors within 0.2 %"),
        Difference("vectors that candidates are compared on", "all", "512 a head, ranked by the leading directions"),
        Difference(
            "result of a search",
            "the best of the last step",
            "the best of all steps, rounds and the observed range",
        ),
        Difference("detectors: images", "one, as in the authors' code of APHQ-ViT (theirs of AdaLog has none)", "32"),
        Difference("detectors: transposed convolutions", "floating point, likewise", "as other layers"),
    )

    def settings(self, seed: int) -> CalibrationSettings:
        """Search by fast progressive combining (paper, §3.3)."""
        if not self.is_published:
            return CalibrationSettings(observer="fpcs", seed=seed, fpcs=FpcsSettings(rounds=2))
        fpcs = FpcsSettings(steps=6, log_bases=8, start="operands", result="last_step", tokens=EVERYTHING, screening=0)
        return CalibrationSettings(observer="fpcs", norm_observer="mse", include_zero=False, seed=seed, fpcs=fpcs)

    def reparameterized(self, traced: TracedModel, bits: BitWidths) -> dict[str, int]:
        """Rescale the LayerNorms that RepQ-ViT does."""
        return self.rescaled_norms(traced, bits, equal_widths=True)

    def weight(self, bits: int) -> OperandConfig:
        """Quantize affinely, per output channel."""
        return OperandConfig(scheme="uniform", bits=bits, granularity="channel")

    def gelu_output(self, bits: int) -> OperandConfig:
        """Quantize logarithmically, shifted to be non-negative (paper, §3.2)."""
        return OperandConfig(scheme="adalog", bits=bits, overflow=self.overflow)

    def attention_operand(self, bits: int) -> OperandConfig:
        """Quantize affinely, one range a head."""
        return OperandConfig(scheme="uniform", bits=bits, granularity="head")

    def attention_map(self, bits: int) -> OperandConfig:
        """Quantize logarithmically, at scale one."""
        return OperandConfig(scheme="adalog", bits=bits, overflow=self.overflow)
