"""PTQ4ViT."""

from __future__ import annotations

from typing import ClassVar

from autoq.calibration import CalibrationSettings
from autoq.methods._base import BaseMethod
from autoq.recipe import OperandConfig


class Ptq4Vit(BaseMethod):
    """Two ranges, a power of two apart, after softmax and GELU; all scales for the error of the layer's output.

    Everything else is symmetric, with one range for a whole tensor, weights included (the paper has one for each of Q,
    K and V). The paper weights that error by squared gradients; here it is not weighted.
    """

    name: ClassVar[str] = "ptq4vit"
    source: ClassVar[str] = "Yuan et al., PTQ4ViT, ECCV 2022"

    def settings(self, seed: int) -> CalibrationSettings:
        """Choose scales by the layer's output (paper, §3.2)."""
        return CalibrationSettings(observer="fpcs", seed=seed)

    def weight(self, bits: int) -> OperandConfig:
        """Quantize symmetrically, one range for the layer."""
        return OperandConfig(scheme="uniform", bits=bits, symmetric=True)

    def layer_input(self, bits: int) -> OperandConfig:
        """Quantize symmetrically, one range."""
        return OperandConfig(scheme="uniform", bits=bits, symmetric=True)

    def attention_operand(self, bits: int) -> OperandConfig:
        """Quantize symmetrically, one range."""
        return OperandConfig(scheme="uniform", bits=bits, symmetric=True)

    def gelu_output(self, bits: int) -> OperandConfig:
        """Use a fine range for what is negative, a coarse one for what is positive."""
        return OperandConfig(scheme="twin_uniform", bits=bits)

    def attention_map(self, bits: int) -> OperandConfig:
        """Use a fine range for small probabilities, a coarse one for large ones."""
        return OperandConfig(scheme="twin_uniform", bits=bits)
