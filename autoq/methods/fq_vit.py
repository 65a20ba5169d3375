"""FQ-ViT."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import ClassVar

from autoq.calibration import CalibrationSettings
from autoq.methods._base import BaseMethod, Difference
from autoq.recipe import OperandConfig


class FqVit(BaseMethod):
    """LayerNorm and softmax are quantized too: power-of-two factors and Log-Int-Softmax.

    Without them (``ptf``, ``lis`` off), LayerNorm inputs and attention maps have one uniform range, as in the paper's
    baselines.
    """

    name: ClassVar[str] = "fq-vit"
    source: ClassVar[str] = "Lin et al., FQ-ViT, IJCAI 2022"
    images: ClassVar[int] = 1000
    differences: ClassVar[tuple[Difference, ...]] = (
        Difference("percentile", "99.999", "99.99"),
        Difference("lowest level of Log-Int-Softmax", "zero, a (2^b + 1)-th level", "2^b codes"),
        Difference(
            "step of the integer exponential",
            "that of the scores: at 0.6 a probability of 7e-5 becomes 4e-3",
            "split until it is below 2^-6",
        ),
        Difference("weights", "least and greatest value, whatever the observer", "by the observer"),
        Difference(
            "LayerNorm inputs with PTF",
            "least and greatest value, whatever the observer; factors on the last 100 images",
            "by the observer; factors on a sample of values of 32 images",
            here="least and greatest value; factors on a sample of values of 32 images",
        ),
        Difference("queries, keys, values", "one range for all three", "a range each", here="a range each"),
        Difference(
            "outputs of projections, MLPs, patch embedding and classifier, position embedding, residual sums",
            "8 bits",
            "floating point",
            here="floating point: what a layer reads is quantized, what is added or returned is not",
        ),
    )
    taken_options: ClassVar[Mapping[str, tuple[object, ...]]] = {
        "observer": ("min_max", "ema", "percentile", "omse"),
        "ptf": (),
        "lis": (),
    }

    def settings(self, seed: int) -> CalibrationSettings:
        """Take minimum and maximum unless another of the paper's observers is asked for."""
        settings = CalibrationSettings(observer=self.options.observer or "min_max", seed=seed)
        if self.is_published:
            return replace(settings, percentile=99.999, weight_observer="min_max", factor_observer="min_max")
        return settings

    def attention_map(self, bits: int) -> OperandConfig:
        """Quantize to powers of two, from integers (paper, §3.4)."""
        if self.options.lis is False:
            return OperandConfig(scheme="uniform", bits=bits)
        return OperandConfig(scheme="log_int_softmax", bits=bits, overflow=self.overflow)

    def norm_input(self, bits: int) -> OperandConfig:
        """Scale one range by a power of two for each channel (paper, §3.3)."""
        scheme = "uniform" if self.options.ptf is False else "power_of_two_factor"
        return OperandConfig(scheme=scheme, bits=bits)

    def softmax_input(self, bits: int) -> OperandConfig:
        """Use one range for all attention scores."""
        return OperandConfig(scheme="uniform", bits=bits)
