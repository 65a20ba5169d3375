"""FQ-ViT."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from autoq.calibration import CalibrationSettings
from autoq.methods._base import BaseMethod
from autoq.recipe import OperandConfig


class FqVit(BaseMethod):
    """LayerNorm and softmax are quantized too: power-of-two factors and Log-Int-Softmax.

    Without them (``ptf``, ``lis`` off), LayerNorm inputs and attention maps have one uniform range, as in the paper's
    baselines. Sums of the residual branches, which the paper quantizes to the integers of the LayerNorm inputs, stay in
    floating point.
    """

    name: ClassVar[str] = "fq-vit"
    source: ClassVar[str] = "Lin et al., FQ-ViT, IJCAI 2022"
    images: ClassVar[int] = 1000
    taken_options: ClassVar[Mapping[str, tuple[object, ...]]] = {
        "observer": ("min_max", "ema", "percentile", "omse"),
        "ptf": (),
        "lis": (),
    }

    def settings(self, seed: int) -> CalibrationSettings:
        """Take minimum and maximum unless another of the paper's observers is asked for."""
        return CalibrationSettings.from_json({"observer": self.options.observer or "min_max", "seed": seed})

    def attention_map(self, bits: int) -> OperandConfig:
        """Quantize to powers of two, from integers (paper, §3.4)."""
        scheme = "uniform" if self.options.lis is False else "log_int_softmax"
        return OperandConfig(scheme=scheme, bits=bits)

    def norm_input(self, bits: int) -> OperandConfig:
        """Scale one range by a power of two for each channel (paper, §3.3)."""
        scheme = "uniform" if self.options.ptf is False else "power_of_two_factor"
        return OperandConfig(scheme=scheme, bits=bits)

    def softmax_input(self, bits: int) -> OperandConfig:
        """Use one range for all attention scores."""
        return OperandConfig(scheme="uniform", bits=bits)
