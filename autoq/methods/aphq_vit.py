"""APHQ-ViT."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, get_args

from autoq.calibration import CalibrationSettings
from autoq.calibration.transforms.reparameterization import rewritable_norms
from autoq.graph.trace import TracedModel
from autoq.methods._base import BaseMethod
from autoq.methods.bit_widths import BitWidths
from autoq.recipe import OperandConfig
from autoq.reconstruction.mlp_training import MlpSettings
from autoq.reconstruction.settings import ErrorWeighting, ReconstructionSettings


class AphqVit(BaseMethod):
    """Uniform quantizers alone; blocks reconstructed by the average perturbation Hessian, MLPs with ReLU for GELU.

    Discrepancies are from the model with ReLU in full precision, which is what is quantized; accuracy says what both
    steps together have cost.
    """

    name: ClassVar[str] = "aphq-vit"
    source: ClassVar[str] = "Wu et al., APHQ-ViT, CVPR 2025"
    images: ClassVar[int] = 1024
    taken_options: ClassVar[Mapping[str, tuple[object, ...]]] = {
        "iterations": (),
        "importance": get_args(ErrorWeighting),
        "mlp": (),
        "bfloat16": (),
        "on_disk": (),
    }
    reconstruction: ClassVar[ReconstructionSettings | None] = ReconstructionSettings()
    mlp_reconstruction: ClassVar[MlpSettings | None] = MlpSettings()

    def settings(self, seed: int) -> CalibrationSettings:
        """Start the reconstruction from bounds of least squared error of each operand alone."""
        return CalibrationSettings(observer="mse", seed=seed)

    def reparameterized(self, traced: TracedModel, bits: BitWidths) -> dict[str, int]:
        """Rescale the LayerNorms that RepQ-ViT does."""
        return dict.fromkeys(rewritable_norms(traced), bits.activations)

    def weight(self, bits: int) -> OperandConfig:
        """Quantize affinely, per output channel."""
        return OperandConfig(scheme="uniform", bits=bits, granularity="channel")

    def attention_operand(self, bits: int) -> OperandConfig:
        """Quantize affinely, one range a head."""
        return OperandConfig(scheme="uniform", bits=bits, granularity="head")
