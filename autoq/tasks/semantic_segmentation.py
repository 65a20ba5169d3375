"""Semantic segmentation: a class for each pixel."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor
from torch.nn import functional

from autoq.errors import TaskError
from autoq.tasks._base import BaseTask, mean_of_positions
from autoq.tasks._meter import BaseMeter, Labels, Outputs, as_tensor
from autoq.tasks.heads import BaseHead, CategoricalHead
from autoq.units import Metric

UNLABELLED = 255
"""What a pixel without a class has in a label."""


@dataclass(frozen=True)
class SemanticSegmentationTask(BaseTask):
    """Logits of shape (N, classes, h, w); labels are class indices (N, H, W), to whose size logits are interpolated.

    >>> import torch
    >>> task = SemanticSegmentationTask()
    >>> meter = task.meter()
    >>> meter.add((torch.tensor([1.0, 2.0]).view(1, 2, 1, 1),), torch.tensor([[[1, 0], [1, 255]]]))
    >>> {name: round(value, 1) for name, value in meter.metrics().items()}
    {'miou_percent': 33.3, 'pixel_accuracy_percent': 66.7}
    """

    name: ClassVar[str] = "semantic-segmentation"
    metrics: ClassVar[tuple[Metric, ...]] = (
        Metric("miou_percent", "mIoU", "mean intersection over union", "%"),
        Metric("pixel_accuracy_percent", "pixel accuracy", "share of pixels whose class is right", "%"),
    )
    element: ClassVar[str] = "logit"
    divergence_in_words: ClassVar[str] = (
        "the Kullback–Leibler divergence of the predicted class probabilities, a mean over pixels"
    )
    labels: ClassVar[Literal["class", "tensor", "objects", "map"]] = "map"
    has_agreement: ClassVar[bool] = True

    @property
    def heads(self) -> tuple[BaseHead, ...]:
        """Classes along the axis after that of the images."""
        return (CategoricalHead(leaves=("logits", "out"), axis=1),)

    def adapted(self, outputs: Outputs, num_classes: int | None) -> SemanticSegmentationTask:
        """Check that the output is a map.

        Raises:
            TaskError: it is not.
        """
        del num_classes
        (logits,) = outputs
        if logits.ndim != 4:
            raise TaskError(
                f"the task {self.name!r} takes logits (N, classes, h, w), but the model returns {tuple(logits.shape)}: "
                "choose another task or output"
            )
        return self

    def agreement(self, reference: Outputs, quantized: Outputs) -> Tensor:
        """Return the share of each image's pixels whose likeliest class is the same."""
        (expected,), (found,) = reference, quantized
        return mean_of_positions((expected.argmax(1) == found.argmax(1)).double())

    def meter(self) -> BaseMeter:
        """Count pixels by what they are and what they are taken for."""
        return _Confusion()


class _Confusion(BaseMeter):
    """Counts pixels by class and predicted class, over all images."""

    def __init__(self) -> None:
        self._counts: Tensor | None = None

    def add(self, outputs: Outputs, labels: Labels) -> None:
        """Add one batch: logits (N, classes, h, w), class indices (N, H, W) with 255 for pixels without a class."""
        (logits,), labels = outputs, as_tensor(labels)
        classes = logits.shape[1]
        if labels.ndim != 3 or len(labels) != len(logits):
            raise TaskError(
                f"labels have shape {tuple(labels.shape)} for {len(logits)} images: give class indices (N, H, W)"
            )
        known = labels != UNLABELLED
        if known.any() and (int(labels[known].min()) < 0 or int(labels[known].max()) >= classes):
            raise TaskError(
                f"labels run up to {int(labels[known].max())}, but the model has {classes} classes from 0 on"
            )
        resized = functional.interpolate(logits.float(), size=labels.shape[1:], mode="bilinear")
        pairs = labels[known].long() * classes + resized.argmax(1)[known]
        counts = torch.bincount(pairs, minlength=classes**2).reshape(classes, classes)
        self._counts = counts if self._counts is None else self._counts + counts
        self.images += len(labels)

    def metrics(self) -> dict[str, float]:
        """Return percentages: the mean over classes that are there or predicted, and the share of all pixels."""
        assert self._counts is not None  # noqa: S101 - there is at least one image
        counts = self._counts.double()
        right, either = counts.diagonal(), counts.sum(0) + counts.sum(1) - counts.diagonal()
        iou = right[either > 0] / either[either > 0]
        share = right.sum() / counts.sum().clamp_min(1)
        return {
            "miou_percent": 100 * float(iou.mean()) if len(iou) else 0.0,
            "pixel_accuracy_percent": 100 * float(share),
        }
