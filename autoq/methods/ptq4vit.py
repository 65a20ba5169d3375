"""PTQ4ViT."""

from __future__ import annotations

from typing import ClassVar

from autoq.calibration import CalibrationSettings
from autoq.calibration.fpcs.settings import FpcsSettings
from autoq.calibration.shared_ranges import equal_parts
from autoq.graph.trace import TracedModel
from autoq.methods._base import EVERYTHING, BaseMethod, Difference
from autoq.methods.bit_widths import BitWidths
from autoq.recipe import Granularity, OperandConfig, SiteConfig

_CANDIDATES = 100
_SPANS = (0.01, 1.1881)
"""The code makes 101 shares from 0.01 to 1.2 and tries all but the last."""


class Ptq4Vit(BaseMethod):
    """Two ranges, a power of two apart, after softmax and GELU; all scales for the error of the layer's output.

    Everything else is symmetric, with one range for a whole tensor, weights included.
    """

    name: ClassVar[str] = "ptq4vit"
    publishes_float_image: ClassVar[bool] = True
    source: ClassVar[str] = "Yuan et al., PTQ4ViT, ECCV 2022"
    differences: ClassVar[tuple[Difference, ...]] = (
        Difference("image", "floating point", "8 bits or more"),
        Difference("weights of the patch embedding", "a scale for each output channel", "one scale"),
        Difference("queries, keys, values", "a scale for each head", "one scale"),
        Difference("weights of qkv", "a scale for each of Q, K and V", "one scale"),
        Difference("candidate scales", "100 from 0.01 to 1.2 of the range", "FPCS from the 0.9-quantile on"),
        Difference(
            "twin ranges after softmax",
            "the coarse one reaches 1; 20 distances, compared with values in full precision",
            "scale and distance searched",
        ),
        Difference(
            "twin ranges after GELU",
            "fine step 0.16997 / 2^(b − 1), any coarse step above (paper: a power of two apart)",
            "scale and distance searched, a power of two apart",
        ),
        Difference(
            "order",
            "from observed ranges, rounds of weights, inputs",
            "weights for the layer's output, then rounds of inputs, weights",
        ),
        Difference("rounds", "3", "2, which leave layer errors within 0.2 %"),
        Difference("vectors that candidates are compared on", "all", "512 a head, ranked by the leading directions"),
        Difference("result of a search", "the best candidate", "the best of all steps, rounds and the observed range"),
        Difference(
            "formula of values in two ranges",
            "the code's: the sum of what each range makes of them, so that the fine range's greatest value is added "
            "above the split of softmax outputs; one negative level more after GELU",
            "the paper's: one range each",
        ),
        Difference(
            "errors of a layer's output",
            "weighted by squared gradients; the code takes those of the KL divergence of full precision from itself, "
            "which are rounding errors",
            "not weighted",
            here="the mean squared gradients with labels that the model itself predicts",
        ),
    )

    def settings(self, seed: int) -> CalibrationSettings:
        """Choose scales by the layer's output (paper, §3.2)."""
        if not self.is_published:
            return CalibrationSettings(observer="fpcs", seed=seed, fpcs=FpcsSettings(rounds=2))
        fpcs = FpcsSettings(
            candidates=_CANDIDATES,
            steps=1,
            spans=_SPANS,
            start="observed",
            tied_rows=True,
            result="last_step",
            twin_scales="published",
            output_weights="gradients",
            tokens=EVERYTHING,
            screening=0,
        )
        return CalibrationSettings(observer="fpcs", seed=seed, fpcs=fpcs)

    def sites(self, traced: TracedModel, bits: BitWidths) -> dict[str, SiteConfig]:
        """Give weights of queries, keys and values a scale for each, as published: channels whose scales are tied."""
        found = super().sites(traced, bits)
        for name in equal_parts(traced) if self.has_qkv_scales else ():
            config = OperandConfig(scheme="uniform", bits=bits.weights, granularity="channel", symmetric=True)
            found[name]["weight"] = config
        return found

    @property
    def has_qkv_scales(self) -> bool:
        """Whether weights of queries, keys and values have a scale each."""
        return self.is_published

    def convolution_weight(self, bits: int) -> OperandConfig:
        """Quantize symmetrically, one range for the layer, or as published for each output channel."""
        granularity: Granularity = "channel" if self.is_published else "tensor"
        return OperandConfig(scheme="uniform", bits=bits, granularity=granularity, symmetric=True)

    def weight(self, bits: int) -> OperandConfig:
        """Quantize symmetrically, one range for the layer."""
        return OperandConfig(scheme="uniform", bits=bits, symmetric=True)

    def layer_input(self, bits: int) -> OperandConfig:
        """Quantize symmetrically, one range."""
        return OperandConfig(scheme="uniform", bits=bits, symmetric=True)

    def attention_operand(self, bits: int) -> OperandConfig:
        """Quantize symmetrically, one range, or as published one a head."""
        granularity: Granularity = "head" if self.is_published else "tensor"
        return OperandConfig(scheme="uniform", bits=bits, granularity=granularity, symmetric=True)

    def gelu_output(self, bits: int) -> OperandConfig:
        """Use a fine range for what is negative, a coarse one for what is positive."""
        return OperandConfig(scheme=self.twin_scheme, bits=bits)

    def attention_map(self, bits: int) -> OperandConfig:
        """Use a fine range for small probabilities, a coarse one for large ones."""
        return OperandConfig(scheme=self.twin_scheme, bits=bits)

    @property
    def twin_scheme(self) -> str:
        """The formula of values in two ranges: the paper's, or as published the code's."""
        return "twin_uniform_sum" if self.is_published else "twin_uniform"
