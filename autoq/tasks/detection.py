"""Detection: boxes with classes, and masks where the model has them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, Self

import torch
from torch import Tensor
from torch.nn import functional

from autoq.data.objects import Objects
from autoq.errors import TaskError
from autoq.tasks._base import BaseTask
from autoq.tasks._meter import BaseMeter, Labels, Outputs
from autoq.tasks.heads import BaseHead, BernoulliHead, CategoricalHead, LaplaceBoxesHead
from autoq.units import Metric

Scores = Literal["softmax", "sigmoid"]
_MOST_OBJECTS = 100
_LEAST_SCORE = 0.05


@dataclass(frozen=True)
class Detections:
    """What a model says is on one image, the likeliest first.

    Attributes:
        scores: of shape (objects,).
        labels: outputs of the model, likewise.
        boxes: left, top, right and bottom in shares of the image, (objects, 4).
        mask_logits: of shape (objects, h, w), of any resolution; None if the model has no masks.
    """

    scores: Tensor
    labels: Tensor
    boxes: Tensor
    mask_logits: Tensor | None


@dataclass(frozen=True)
class DetectionTask(BaseTask):
    """Classes (N, queries, classes), boxes (N, queries, 4) and masks (N, queries, h, w), named as in transformers.

    Classes are independent (Bernoulli, by sigmoid), or exclude each other, the last being that there is no object
    (categorical, by softmax). Boxes are centre, width and height in shares of the image, with Laplace errors; masks are
    logits of independent pixels. The distributions of box and mask apply if there is an object: their importance is
    the full-precision probability of that. Boxes and masks both count in proportion to the object's size.

    >>> import torch
    >>> task = DetectionTask(scores="sigmoid")
    >>> logits, boxes = torch.full((1, 2, 3), -3.0), torch.full((1, 2, 4), 0.5)
    >>> bool(task.divergence((logits, boxes), (logits - 1, boxes)) > 0)
    True

    Attributes:
        scores: how logits become probabilities; None: not known yet. A model with one logit more than classes has
            softmax.
        box_weight: factor of the divergence of boxes.
        mask_weight: factor of that of masks, relative to their size.
        nms_iou: of two boxes of a class that overlap by more, the less likely one is left out; 1: none is.
    """

    scores: Scores | None = None
    box_weight: float = 1.0
    mask_weight: float = 1.0
    nms_iou: float = 0.6

    name: ClassVar[str] = "detection"
    metrics: ClassVar[tuple[Metric, ...]] = (
        Metric("box_ap_percent", "box AP", "average precision of boxes", "%"),
        Metric("box_ap50_percent", "box AP50", "average precision of boxes at IoU 0.5", "%"),
        Metric("mask_ap_percent", "mask AP", "average precision of masks", "%"),
        Metric("mask_ap50_percent", "mask AP50", "average precision of masks at IoU 0.5", "%"),
    )
    element: ClassVar[str] = "output element"
    divergence_in_words: ClassVar[str] = (
        "the Kullback–Leibler divergence of the predicted classes, boxes and masks, a mean over the queries of an image"
    )
    labels: ClassVar[Literal["class", "tensor", "objects", "map"]] = "objects"

    def __post_init__(self) -> None:
        """Check the settings.

        Raises:
            TaskError: a value cannot be used.
        """
        if self.scores not in (None, "softmax", "sigmoid"):
            raise TaskError(f"scores are by 'softmax' or 'sigmoid', not {self.scores!r}")
        for name in ("box_weight", "mask_weight", "nms_iou"):
            if not (isinstance(value := getattr(self, name), int | float) and 0 < value < math.inf):
                raise TaskError(f"{name} is {value!r}: give a number above 0")

    @property
    def heads(self) -> tuple[BaseHead, ...]:
        """Classes, boxes and masks."""
        leaves = ("logits", "pred_logits", "class_queries_logits")
        return (
            CategoricalHead(leaves) if self.scores == "softmax" else BernoulliHead(leaves),
            LaplaceBoxesHead(("pred_boxes",), self.box_weight),
            BernoulliHead(
                ("pred_masks", "masks_queries_logits"), self.mask_weight, optional=True, axes=2, relative=True
            ),
        )

    def adapted(self, outputs: Outputs, num_classes: int | None) -> Self:
        """Return the task with :attr:`scores`: softmax where there is one logit more than classes.

        Raises:
            TaskError: logits and boxes are not of the same queries, or there are fewer logits than classes.
        """
        logits, boxes, *masks = outputs
        queries = logits.shape[:2]
        if logits.ndim != 3 or boxes.shape != (*queries, 4) or any(mask.shape[:2] != queries for mask in masks):
            shapes = ", ".join(str(tuple(leaf.shape)) for leaf in outputs)
            raise TaskError(
                f"the task {self.name!r} takes logits (N, queries, classes), boxes (N, queries, 4) and masks "
                f"(N, queries, h, w), but the model returns {shapes}: name its outputs so"
            )
        if self.scores is not None:
            return self
        found = logits.shape[2] - (logits.shape[2] if num_classes is None else num_classes)
        if found not in (0, 1):
            raise TaskError(
                f"the model has {num_classes} classes, but logits of {logits.shape[2]}: give it as many as classes, or "
                "one more for no object"
            )
        return replace(self, scores="softmax" if found else "sigmoid")

    def importances(self, outputs: Outputs) -> tuple[Tensor | None, ...]:
        """Return the probability that a query has an object, for boxes and masks."""
        logits = outputs[0]
        head = self.heads[0]
        found = head.presence(logits) if isinstance(head, BernoulliHead) else 1 - logits.softmax(-1)[..., -1]
        return (None, *(found.detach() for _ in outputs[1:]))

    def detections(self, outputs: Outputs) -> Iterator[Detections]:
        """Yield what is predicted on each image: at most 100 objects of a score of at least 0.05."""
        from torchvision.ops import batched_nms, box_convert

        logits, boxes, *masks = (leaf.float() for leaf in outputs)
        scores = logits.softmax(-1)[..., :-1] if self.scores == "softmax" else logits.sigmoid()
        corners = box_convert(boxes, "cxcywh", "xyxy").clamp(0, 1)
        for image, own in enumerate(scores):
            query, label = (own >= _LEAST_SCORE).nonzero().unbind(1)
            score = own[query, label]
            kept = batched_nms(corners[image, query], score, label, self.nms_iou)[:_MOST_OBJECTS]
            query = query[kept]
            mask_logits = masks[0][image, query] if masks else None
            yield Detections(score[kept], label[kept], corners[image, query], mask_logits)

    def meter(self) -> BaseMeter:
        """Collect detections, and compute their average precision as COCO does."""
        return _AveragePrecision(self)

    def to_json(self) -> dict[str, Any]:
        """Return the name and the settings, weights among them whatever they are."""
        return {**super().to_json(), "box_weight": self.box_weight, "mask_weight": self.mask_weight}


class _AveragePrecision(BaseMeter):
    """Average precision by torchmetrics, of boxes and, where model and labels have them, of masks."""

    def __init__(self, task: DetectionTask) -> None:
        self._task = task
        self._metric: Any = None
        self._has_masks = False

    def add(self, outputs: Outputs, labels: Labels) -> None:
        """Add one batch, with the objects on each image."""
        objects = _objects(labels)
        if self._metric is None:
            self._has_masks = len(outputs) > 2 and all(each.masks is not None for each in objects)
            self._metric = _mean_average_precision(("bbox", "segm") if self._has_masks else ("bbox",))
        for found, there in zip(self._task.detections(outputs), objects, strict=True):
            self._metric.update([self._predicted(found, there)], [self._target(there)])
        self.images += len(objects)

    def metrics(self) -> dict[str, float]:
        """Return percentages; without a single object, 0."""
        found = self._metric.compute()
        kinds = (("box", "bbox"), ("mask", "segm")) if self._has_masks else (("box", ""),)
        values: dict[str, float] = {}
        for name, kind in kinds:
            for metric, key in ((f"{name}_ap_percent", "map"), (f"{name}_ap50_percent", "map_50")):
                values[metric] = 100 * max(float(found["_".join(filter(None, (kind, key)))]), 0.0)
        return values

    def _predicted(self, found: Detections, there: Objects) -> dict[str, Tensor]:
        height, width = there.size
        scale = torch.tensor([width, height, width, height])
        made = {"boxes": found.boxes.cpu() * scale, "scores": found.scores.cpu(), "labels": found.labels.cpu()}
        if self._has_masks and found.mask_logits is not None:
            made["masks"] = _resized(found.mask_logits.cpu(), there.size) > 0
        return made

    def _target(self, there: Objects) -> dict[str, Tensor]:
        made = {
            "boxes": torch.from_numpy(there.boxes).float(),
            "labels": torch.from_numpy(there.labels),
            "iscrowd": torch.from_numpy(there.crowd).long(),
        }
        if self._has_masks:
            if there.masks is None:
                raise TaskError("some images have masks and some have none: give masks for all objects, or for none")
            made["masks"] = torch.from_numpy(there.masks)
        return made


def _resized(mask_logits: Tensor, size: tuple[int, int]) -> Tensor:
    if not len(mask_logits):
        return mask_logits.new_zeros(0, *size)
    return functional.interpolate(mask_logits.unsqueeze(0), size=size, mode="bilinear")[0]


def _objects(labels: Labels) -> Sequence[Objects]:
    if isinstance(labels, Tensor) or not all(isinstance(each, Objects) for each in labels):
        raise TaskError("labels of detectors are the objects on each image: give --eval-data coco:FILE.json")
    return labels


def _mean_average_precision(kinds: tuple[Literal["bbox", "segm"], ...]) -> Any:
    try:
        import faster_coco_eval  # noqa: F401 - torchmetrics uses it
        from torchmetrics.detection import MeanAveragePrecision
    except ImportError as error:
        raise TaskError(
            "average precision needs the packages torchmetrics and faster-coco-eval: pip install 'autoq[detection]'"
        ) from error
    metric = MeanAveragePrecision(iou_type=kinds, backend="faster_coco_eval")
    metric.warn_on_many_detections = False
    return metric
