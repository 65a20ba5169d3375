"""Semantic segmentation: a class for each pixel."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from autoq.data.label_maps import UNLABELLED, LabelMap
from autoq.errors import TaskError
from autoq.pixels import WHOLE, Content
from autoq.tasks._base import BaseTask, LabelKind, mean_of_positions, require_positive
from autoq.tasks._meter import BaseMeter, Labels, Outputs
from autoq.tasks._resizing import on_image
from autoq.tasks.heads import BaseHead, BernoulliHead, CategoricalHead
from autoq.units import Metric

_QUERIES = ("class_queries_logits", "masks_queries_logits")
"""What MaskFormer and Mask2Former of transformers call classes and masks of queries."""


@dataclass(frozen=True)
class SemanticSegmentationTask(BaseTask):
    """Logits of shape (N, classes, h, w); labels are maps of classes, to whose size logits are interpolated.

    MaskFormer and Mask2Former have classes of queries instead, (N, queries, classes + 1) with a last one for none, and
    a mask of each, (N, queries, h, w). Their divergence is that of both, a mask counting as far as its query has a
    class. The class of a pixel is that of the largest sum, over queries, of the probability of the class times that of
    the mask (Cheng et al., NeurIPS 2021).

    >>> import torch
    >>> task = SemanticSegmentationTask()
    >>> meter = task.meter()
    >>> meter.add((torch.tensor([1.0, 2.0]).view(1, 2, 1, 1),), torch.tensor([[[1, 0], [1, 255]]]))
    >>> {name: round(value, 1) for name, value in meter.metrics().items()}
    {'miou_percent': 33.3, 'pixel_accuracy_percent': 66.7}

    Attributes:
        queries: whether the model has classes and masks of queries; found out from the names of its outputs.
        mask_weight: factor of the divergence of their masks.
    """

    queries: bool = False
    mask_weight: float = 1.0

    name: ClassVar[str] = "semantic-segmentation"
    metrics: ClassVar[tuple[Metric, ...]] = (
        Metric("miou_percent", "mIoU", "mean intersection over union", "%"),
        Metric("pixel_accuracy_percent", "pixel accuracy", "share of pixels whose class is right", "%"),
    )
    class_metrics: ClassVar[tuple[Metric, ...]] = (Metric("iou_percent", "IoU", "intersection over union", "%"),)
    element: ClassVar[str] = "logit"
    divergence_in_words: ClassVar[str] = (
        "the Kullback–Leibler divergence of the predicted class probabilities, a mean over pixels, or of the classes "
        "and masks of queries, a mean over these"
    )
    labels: ClassVar[LabelKind] = "map"
    has_agreement: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Check the settings.

        Raises:
            TaskError: a value cannot be used.
        """
        super().__post_init__()
        require_positive("mask_weight", self.mask_weight)
        if not isinstance(self.queries, bool):
            raise TaskError(f"queries is {self.queries!r}: give true or false")

    @property
    def heads(self) -> tuple[BaseHead, ...]:
        """Classes along the axis after that of the images, or classes and masks of queries."""
        if self.queries:
            return CategoricalHead(_QUERIES[:1]), BernoulliHead(_QUERIES[1:], self.mask_weight, axes=2, relative=True)
        return (CategoricalHead(leaves=("logits", "out"), axis=1),)

    def select(self, leaves: Sequence[object], names: Sequence[str] = ()) -> tuple[int, ...]:
        """Choose classes and masks of queries where the model has them by name; see ``BaseTask.select``."""
        if not self.queries and self.output is None and set(_QUERIES) <= set(names):
            return replace(self, queries=True).select(leaves, names)
        return super().select(leaves, names)

    def adapted(self, outputs: Outputs, num_classes: int | None, names: Sequence[str] = ()) -> SemanticSegmentationTask:
        """Return the task with :attr:`queries`, and check that the output is a map.

        Raises:
            TaskError: it is not.
        """
        del num_classes, names
        if len(outputs) > 1:
            return replace(self, queries=True)
        (logits,) = outputs
        if logits.ndim != 4:
            raise TaskError(
                f"the task {self.name!r} takes logits (N, classes, h, w), but the model returns {tuple(logits.shape)}: "
                "choose another task or output"
            )
        return self

    def num_classes(self, outputs: Outputs) -> int:
        """Return the length of the axis of the classes, of queries without that for none."""
        return outputs[0].shape[1] if len(outputs) == 1 else outputs[0].shape[2] - 1

    def importances(self, outputs: Outputs) -> tuple[Tensor | None, ...]:
        """Return the probability that a query has a class, for its mask."""
        if not self.queries:
            return super().importances(outputs)
        return None, (1 - outputs[0].softmax(-1)[..., -1]).detach()

    def agreement(self, reference: Outputs, quantized: Outputs) -> Tensor:
        """Return the share of each image's pixels whose likeliest class is the same."""
        same = [
            class_scores(expected).argmax(0) == class_scores(found).argmax(0)
            for expected, found in zip(_images(reference), _images(quantized), strict=True)
        ]
        return mean_of_positions(torch.stack(same).double())

    def meter(self) -> BaseMeter:
        """Count pixels by what they are and what they are taken for."""
        return _Confusion()


def class_scores(outputs: Outputs) -> Tensor:
    """Return what tells how likely each class is at each pixel of one image, of shape (classes, h, w).

    Args:
        outputs: its logits (classes, h, w), or classes (queries, classes + 1) and masks (queries, h, w).
    """
    if len(outputs) == 1:
        return outputs[0]
    classes, masks = outputs
    return torch.einsum("qc,qhw->chw", classes.softmax(-1)[:, :-1], masks.sigmoid())


def _images(outputs: Outputs) -> Iterator[Outputs]:
    """Yield the outputs of each image of a batch."""
    yield from zip(*outputs, strict=True)


class _Confusion(BaseMeter):
    """Counts pixels by class and predicted class, over all images."""

    def __init__(self) -> None:
        self._counts: Tensor | None = None

    def add(self, outputs: Outputs, labels: Labels) -> None:
        """Add one batch: outputs, and label maps or class indices (N, H, W), 255 where there is none.

        Raises:
            TaskError: labels are something else, or no classes of the model.
        """
        maps, images = _label_maps(labels), len(outputs[0])
        if len(maps) != images:
            raise TaskError(f"there are labels of {len(maps)} images for {images}: give one map for each")
        for own, (classes, content) in zip(_images(outputs), maps, strict=True):
            self._add_image(own, classes.to(outputs[0].device), content)
        self.images += len(maps)

    def _add_image(self, outputs: Outputs, labels: Tensor, content: Content) -> None:
        *classes_of_queries, maps = (leaf.float() for leaf in outputs)
        classes = classes_of_queries[0].shape[-1] - 1 if classes_of_queries else len(maps)
        known = labels != UNLABELLED
        if known.any() and (int(labels[known].min()) < 0 or int(labels[known].max()) >= classes):
            raise TaskError(
                f"labels run up to {int(labels[known].max())}, but the model has {classes} classes from 0 on"
            )
        height, width = labels.shape
        resized = on_image(maps, (height, width), content)
        found = class_scores((*classes_of_queries, resized)).argmax(0)
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
