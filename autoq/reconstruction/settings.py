"""Settings of block reconstruction."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from autoq.errors import CalibrationError

Protocol = Literal["autoq", "published"]
"""Ours, with steps that suit few iterations; or that of APHQ-ViT's code."""
ErrorWeighting = Literal["aph", "brecq", "mse"]
"""By what squared errors of a block's output are weighted: the average perturbation Hessian (APHQ-ViT), squared
gradients (BRECQ), or nothing."""


@dataclass(frozen=True)
class ReconstructionSettings:
    """Settings of block reconstruction; as in APHQ-ViT (Wu et al., CVPR 2025), with fewer iterations at a higher rate.

    Attributes:
        protocol: ``autoq`` minimises a loss relative to the calibrated block's, regularised by a mean over weights, at
            rates relative to scales, and keeps a block only if that made it better. ``published`` minimises the loss
            as it is (squared errors summed along the first axis of an image, tokens, divided by ten), regularised by
            a sum, at one rate for all scales, on images that differ within a batch, and keeps what it has learned;
            gradients of scales are those of values that are clamped after they are rounded.
        iterations: steps of each block; the paper's are 20,000.
        batch: images in a step.
        importance: weights of squared errors; the last block's loss is the KL divergence of the predictions instead.
        weight_rate: Adam's learning rate for rounding; None: 1e-3 at 20,000 iterations, as published, and higher at
            fewer, in which rounding still has as far to go (:meth:`rounding_rate`).
        scale_rate: Adam's learning rate for scales of activations, as a fraction of the scale (published: absolute),
            annealed to zero; None: like ``weight_rate``, from the published 4e-5.
        drop: probability with which an activation is left in full precision (QDrop).
        regularization: weight of AdaRound's regulariser: relative to the loss of the calibrated block; published, as
            it is, 0.01.
        warm_up: share of the iterations before the regulariser sets in.
        exponent_start: the regulariser's exponent when it sets in.
        exponent_end: the same at the end.
        importance_images: images that the average perturbation Hessian is a mean over.
        bfloat16: compute products in bfloat16 while training, which some processors do faster; losses are compared in
            full precision all the same.
        seed: of batches, drops and perturbations.

    Raises:
        CalibrationError: a value is out of its range.
    """

    protocol: Protocol = "autoq"
    iterations: int = 1000
    batch: int = 32
    importance: ErrorWeighting = "aph"
    weight_rate: float | None = None
    scale_rate: float | None = None
    drop: float = 0.5
    regularization: float = 1.0
    warm_up: float = 0.2
    exponent_start: float = 20.0
    exponent_end: float = 2.0
    importance_images: int = 128
    bfloat16: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the values."""
        self._require(self.protocol in get_args(Protocol), "protocol", " or ".join(get_args(Protocol)))
        self._require(self.iterations >= 1, "iterations", "at least 1")
        self._require(self.batch >= 1, "batch", "at least 1")
        self._require(self.importance in get_args(ErrorWeighting), "importance", " or ".join(get_args(ErrorWeighting)))
        self._require(self.weight_rate is None or self.weight_rate > 0, "weight_rate", "positive")
        self._require(self.scale_rate is None or self.scale_rate >= 0, "scale_rate", "0 or more")
        self._require(0 <= self.drop < 1, "drop", "in 0..1, without 1")
        self._require(self.regularization > 0, "regularization", "positive")
        self._require(0 <= self.warm_up < 1, "warm_up", "in 0..1, without 1")
        self._require(self.exponent_start >= self.exponent_end > 1, "exponent_end", "above 1, below exponent_start")
        self._require(self.importance_images >= 1, "importance_images", "at least 1")

    @property
    def is_published(self) -> bool:
        """Whether blocks are trained as in APHQ-ViT's code."""
        return self.protocol == "published"

    @property
    def rounding_rate(self) -> float:
        """The learning rate for rounding."""
        return self.weight_rate if self.weight_rate is not None else PUBLISHED_ROUNDING_RATE * self._haste

    def rate_of(self, scale: float) -> float:
        """Return the learning rate for a scale, which at its mean is ``scale``."""
        rate = self.scale_rate if self.scale_rate is not None else PUBLISHED_SCALE_RATE * self._haste
        return rate if self.is_published else rate * scale

    @property
    def _haste(self) -> float:
        """Factor on the learning rates, between 1 and 50.

        More than 1 for fewer than 20,000 iterations; larger ones make the rounding oscillate.
        """
        return float(min(50.0, max(1.0, PUBLISHED_ITERATIONS / self.iterations) ** 0.75))

    def _require(self, condition: bool, name: str, wanted: str) -> None:
        if not condition:
            raise CalibrationError(f"{name} of a reconstruction is {getattr(self, name)!r}: it must be {wanted}")


PUBLISHED_ITERATIONS = 20_000
"""Iterations a block in AdaRound, BRECQ, QDrop and APHQ-ViT."""
PUBLISHED_ROUNDING_RATE = 1e-3
"""Adam's rate for rounding there."""
PUBLISHED_SCALE_RATE = 4e-5
"""Adam's rate for scales of activations there."""
