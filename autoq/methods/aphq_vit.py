"""APHQ-ViT."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import ClassVar, get_args

from autoq.calibration import CalibrationSettings
from autoq.calibration.fpcs.settings import FpcsSettings
from autoq.graph.trace import TracedModel
from autoq.methods._base import EVERYTHING, BaseMethod, Difference
from autoq.methods.bit_widths import BitWidths
from autoq.recipe import Granularity, OperandConfig
from autoq.reconstruction.mlp_training import MlpSettings
from autoq.reconstruction.settings import (
    PUBLISHED_ITERATIONS,
    PUBLISHED_ROUNDING_RATE,
    PUBLISHED_SCALE_RATE,
    ErrorWeighting,
    ReconstructionSettings,
)

_PUBLISHED_MLP_RATE = 4e-5
_PUBLISHED_REGULARIZATION = 0.01
_CLAMPED_MORE_BITS = 4
_DETECTORS_CLAMP = 0.999


class AphqVit(BaseMethod):
    """Uniform quantizers alone; blocks reconstructed by the average perturbation Hessian, MLPs with ReLU for GELU.

    Discrepancies are from the model with ReLU in full precision, which is what is quantized; accuracy says what both
    steps together have cost.
    """

    name: ClassVar[str] = "aphq-vit"
    publishes_float_image: ClassVar[bool] = True
    source: ClassVar[str] = "Wu et al., APHQ-ViT, CVPR 2025"
    images: ClassVar[int] = 1024
    detection_images: ClassVar[int | None] = 256
    publishes_float_upsampling: ClassVar[bool] = True
    differences: ClassVar[tuple[Difference, ...]] = (
        Difference("iterations of a block, of an MLP", "20,000", "1,000, 500, at higher rates"),
        Difference("rate of MLPs, what they are trained on", "4e-5, the original model", "1e-3, MLPs trained before"),
        Difference("clamp of MLPs", "0.98-quantile at 4 bits, 0.99 else", "0.99-quantile"),
        Difference("attention maps", "a range a head", "one range"),
        Difference(
            "starting point", "layer-output search on 128 images", "least squared error of each operand on 128 images"
        ),
        Difference("image; at 8 bits inputs of other convolutions", "floating point", "8 bits or more"),
        Difference("LayerNorms that are rescaled", "those where weights and activations have the same bits", "all"),
        Difference("channel ranges for the factors", "of least squared error", "least and greatest value, with zero"),
        Difference("vectors that candidates are compared on", "all", "none: operands alone"),
        Difference("norm before an MLP", "not trained", "trained"),
        Difference(
            "loss of a block",
            "squared errors summed over tokens, a tenth of them, and 0.01 times the sum of AdaRound's regulariser",
            "relative to the calibrated block's, and the mean of AdaRound's regulariser",
        ),
        Difference("rate of scales", "4e-5 for all", "relative to each scale"),
        Difference("blocks that training made worse", "kept as trained", "as calibrated"),
        Difference("images of a batch", "each once", "drawn one by one"),
        Difference(
            "perturbation",
            "1e-6 for every element of the output: before a LayerNorm the difference of gradients is rounding error",
            "random signs, the limit of small ones",
            here="as by default",
        ),
        Difference(
            "gradient of scales",
            "straight through, clamped after rounding",
            "LSQ's (equation 3): another where a value is less than half a step beyond the last code",
        ),
        Difference("detectors: images to start from, to train on", "one, 256", "128, 1,024"),
        Difference("detectors: images of a batch", "one", "32"),
        Difference("detectors: clamp of MLPs", "0.999-quantile", "0.99-quantile"),
        Difference("detectors: transposed convolutions", "floating point", "as other layers"),
        Difference(
            "detectors: what is trained",
            "the backbone, and the pyramid for its squared error; heads stay as calibrated",
            "every block, the last for the predictions",
            here="as by default",
        ),
        Difference(
            "detectors: loss that importance comes from",
            "of the proposal network alone: binary KL of objectness, smooth L1 of boxes beyond 0.7",
            "of the predictions",
            here="as by default",
        ),
    )
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
        """Start from bounds of least squared error of each operand alone, or as published of the layer's output."""
        if not self.is_published:
            return CalibrationSettings(observer="mse", seed=seed)
        images = self.starting_images
        fpcs = FpcsSettings(
            steps=6, images=images, start="operands", result="last_step", tokens=EVERYTHING, screening=0
        )
        return CalibrationSettings(observer="fpcs", norm_observer="mse", include_zero=False, seed=seed, fpcs=fpcs)

    @property
    def starting_images(self) -> int:
        """How many images quantizers are calibrated on: as published for detectors on one."""
        return 1 if self.has_detection_protocol else super().starting_images

    def reparameterized(self, traced: TracedModel, bits: BitWidths) -> dict[str, int]:
        """Rescale the LayerNorms that RepQ-ViT does."""
        return self.rescaled_norms(traced, bits, equal_widths=True)

    def reconstruction_settings(self, seed: int) -> ReconstructionSettings | None:
        """Return how blocks are reconstructed: in 20,000 iterations as published, unless others are asked for."""
        chosen = super().reconstruction_settings(seed)
        if chosen is None or not self.is_published:
            return chosen
        return replace(
            chosen,
            protocol="published",
            iterations=self.options.iterations or PUBLISHED_ITERATIONS,
            weight_rate=PUBLISHED_ROUNDING_RATE,
            scale_rate=PUBLISHED_SCALE_RATE,
            regularization=_PUBLISHED_REGULARIZATION,
            batch=1 if self.has_detection_protocol else chosen.batch,
        )

    def mlp_settings(self, seed: int, bits: BitWidths) -> MlpSettings | None:
        """Return how MLPs with ReLU are trained."""
        chosen = super().mlp_settings(seed, bits)
        if chosen is None or not self.is_published:
            return chosen
        quantile = 0.98 if bits.activations <= _CLAMPED_MORE_BITS else 0.99
        return replace(
            chosen,
            iterations=self.options.iterations or PUBLISHED_ITERATIONS,
            batch_size=1 if self.has_detection_protocol else chosen.batch_size,
            learning_rate=_PUBLISHED_MLP_RATE,
            inputs="original",
            train_norm=False,
            clamp_quantile=_DETECTORS_CLAMP if self.has_detection_protocol else quantile,
        )

    def attention_map(self, bits: int) -> OperandConfig:
        """Quantize affinely, one range, or as published one a head."""
        granularity: Granularity = "head" if self.is_published else "tensor"
        return OperandConfig(scheme="uniform", bits=bits, granularity=granularity)

    def weight(self, bits: int) -> OperandConfig:
        """Quantize affinely, per output channel."""
        return OperandConfig(scheme="uniform", bits=bits, granularity="channel")

    def attention_operand(self, bits: int) -> OperandConfig:
        """Quantize affinely, one range a head."""
        return OperandConfig(scheme="uniform", bits=bits, granularity="head")
