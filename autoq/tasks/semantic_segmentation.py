"""Semantic segmentation: a class for each pixel."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from autoq.data.label_maps import UNLABELLED, LabelMap
from autoq.errors import TaskError
from autoq.pixels import WHOLE, Content
from autoq.tasks._base import BaseTask, LabelKind, mean_of_positions
from autoq.tasks._meter import BaseMeter, Labels, Outputs
from autoq.tasks._resizing import on_image
from autoq.tasks.heads import BaseHead, CategoricalHead
from autoq.units import Metric


@dataclass(frozen=True)
class SemanticSegmentationTask(BaseTask):
    """Logits of shape (N, classes, h, w); labels are maps of classes, to whose size logits are interpolated.

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
    class_metrics: ClassVar[tuple[Metric, ...]] = (Metric("iou_percent", "IoU", "intersection over union", "%"),)
    element: ClassVar[str] = "logit"
    divergence_in_words: ClassVar[str] = (
        "the Kullback–Leibler divergence of the predicted class probabilities, a mean over pixels"
    )
    labels: ClassVar[LabelKind] = "map"
    has_agreement: ClassVar[bool] = True

    @property
    def heads(self) -> tuple[BaseHead, ...]:
        """Classes along the axis after that of the images."""
        return (CategoricalHead(leaves=("logits", "out"), axis=1),)

    def adapted(self, outputs: Outputs, num_classes: int | None, names: Sequence[str] = ()) -> SemanticSegmentationTask:
        """Check that the output is a map.

        Raises:
            TaskError: it is not.
        """
        del num_classes, names
        (logits,) = outputs
        if logits.ndim != 4:
            raise TaskError(
                f"the task {self.name!r} takes logits (N, classes, h, w), but the model returns {tuple(logits.shape)}: "
                "choose another task or output"
            )
        return self

    def num_classes(self, outputs: Outputs) -> int:
        """Return the length of the axis of the classes."""
        return outputs[0].shape[1]

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
        """Add one batch: logits (N, classes, h, w), and label maps or class indices (N, H, W), 255 where there is none.

        Raises:
            TaskError: labels are something else, or no classes of the model.
        """
        (logits,) = outputs
        maps = _label_maps(labels)
        if len(maps) != len(logits):
            raise TaskError(f"there are labels of {len(maps)} images for {len(logits)}: give one map for each")
        for own, (classes, content) in zip(logits, maps, strict=True):
            self._add_image(own, classes.to(logits.device), content)
        self.images += len(maps)

    def _add_image(self, logits: Tensor, labels: Tensor, content: Content) -> None:
        classes, known = len(logits), labels != UNLABELLED
        if known.any() and (int(labels[known].min()) < 0 or int(labels[known].max()) >= classes):
            raise TaskError(
                f"labels run up to {int(labels[known].max())}, but the model has {classes} classes from 0 on"
            )
        height, width = labels.shape
        found = on_image(logits.float(), (height, width), content).argmax(0)
        pairs = labels[known].long() * classes + found[known]
        counts = torch.bincount(pairs, minlength=classes**2).reshape(classes, classes)
        self._counts = counts if self._counts is None else self._counts + counts

    def _iou(self) -> tuple[Tensor, Tensor]:
        """Return the intersection over union of the classes that are there or predicted, and which these are."""
        assert self._counts is not None  # noqa: S101 - there is at least one image
        counts = self._counts.double()
        either = counts.sum(0) + counts.sum(1) - counts.diagonal()
        there = (either > 0).nonzero().squeeze(1)
        return counts.diagonal()[there] / either[there], there

    def metrics(self) -> dict[str, float]:
        """Return percentages: the mean over classes that are there or predicted, and the share of all pixels."""
        iou, _ = self._iou()
        assert self._counts is not None  # noqa: S101 - there is at least one image
        share = self._counts.diagonal().sum().double() / self._counts.sum().clamp_min(1)
        return {
            "miou_percent": 100 * float(iou.mean()) if len(iou) else 0.0,
            "pixel_accuracy_percent": 100 * float(share),
        }

    def per_class(self) -> dict[int, dict[str, float]]:
        """Return intersections over unions in percent, of the classes that are there or predicted."""
        iou, there = self._iou()
        return {label: {"iou_percent": 100 * value} for label, value in zip(there.tolist(), iou.tolist(), strict=True)}


def _label_maps(labels: Labels) -> list[tuple[Tensor, Content]]:
    """Return the classes of each image's pixels, and what it takes up of the input."""
    if isinstance(labels, Tensor):
        if labels.ndim != 3:
            raise TaskError(f"labels have shape {tuple(labels.shape)}: give class indices (N, H, W)")
        return [(each, WHOLE) for each in labels]
    if not all(isinstance(each, LabelMap) for each in labels):
        raise TaskError("labels of segmenters are the classes of pixels: give maps:IMAGES:LABELS, or (N, H, W)")
    return [(torch.from_numpy(each.classes), each.content) for each in labels]
