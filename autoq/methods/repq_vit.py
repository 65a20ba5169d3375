"""RepQ-ViT."""

from __future__ import annotations

from typing import ClassVar

from autoq.calibration import CalibrationSettings
from autoq.graph.trace import TracedModel
from autoq.methods._base import EVERYTHING, BaseMethod, Difference
from autoq.methods.bit_widths import BitWidths
from autoq.recipe import OperandConfig


class RepqVit(BaseMethod):
    """LayerNorm outputs as if they had a scale for each channel, base-√2 logarithms after softmax."""

    name: ClassVar[str] = "repq-vit"
    source: ClassVar[str] = "Li et al., RepQ-ViT, ICCV 2023"
    detection_images: ClassVar[int | None] = 1
    publishes_float_upsampling: ClassVar[bool] = True
    differences: ClassVar[tuple[Difference, ...]] = (
        Difference(
            "channel ranges for the factors",
            "best of three percentiles (99.9, 99.99, 99.999) of each channel, by squared error, as they are",
            "least and greatest value of each channel, widened to zero",
        ),
        Difference(
            "scale of what LayerNorms feed",
            "the mean over channels is kept",
            "searched again on the rescaled values",
        ),
        Difference(
            "zero point of what LayerNorms feed",
            "the mean over channels, not rounded: 2^b + 1 levels",
            "searched, a code",
            here="the mean over channels, rounded, as in AdaLog's code; r2 takes up the difference exactly",
        ),
        Difference("zero points", "any whole number", "codes: ranges include zero"),
        Difference(
            "inputs while calibrating",
            "earlier layers are quantized already; layers after LayerNorms get new weight scales at the end",
            "full precision",
            here="earlier layers are quantized already, their weights rescaled",
        ),
        Difference("values that scales are chosen on", "all", "a sample of about 260,000 an operand"),
        Difference("lowest level after softmax", "zero, a (2^b + 1)-th level", "2^b codes"),
        Difference("detectors: images", "one", "32"),
        Difference("detectors: transposed convolutions", "floating point", "as other layers"),
    )

    def settings(self, seed: int) -> CalibrationSettings:
        """Take the best of three percentiles, by squared error, as in the authors' code."""
        if not self.is_published:
            return CalibrationSettings(observer="best_percentile", seed=seed)
        return CalibrationSettings(
            observer="best_percentile",
            norm_observer="best_percentile",
            inputs="quantized",
            include_zero=False,
            sample_images=self.images,
            sample_elements=EVERYTHING,
            seed=seed,
        )

    def reparameterized(self, traced: TracedModel, bits: BitWidths) -> dict[str, int]:
        """Rescale every LayerNorm that feeds linear layers alone (paper, §3.2)."""
        return self.rescaled_norms(traced, bits)

    def weight(self, bits: int) -> OperandConfig:
        """Quantize affinely, per output channel."""
        return OperandConfig(scheme="uniform", bits=bits, granularity="channel")

    def attention_map(self, bits: int) -> OperandConfig:
        """Quantize to powers of √2 (paper, §3.3)."""
        return OperandConfig(scheme="log_sqrt2", bits=bits, overflow=self.overflow)
