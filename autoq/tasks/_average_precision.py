"""What is found on images, and its average precision as COCO measures it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from autoq.data.objects import Objects
from autoq.errors import TaskError
from autoq.tasks._meter import BaseMeter, Labels, Outputs
from autoq.tasks._resizing import on_image

Kind = Literal["box", "mask"]
_IOU_TYPES: dict[Kind, Literal["bbox", "segm"]] = {"box": "bbox", "mask": "segm"}


@dataclass(frozen=True)
class Detections:
    """What a model says is on one image, the likeliest first.

    Attributes:
        scores: of shape (objects,).
        labels: outputs of the model, likewise.
        boxes: left, top, right and bottom in shares of the input, (objects, 4); None if the model has no boxes.
        mask_logits: of shape (objects, h, w), of any resolution; None if the model has no masks.
        mask_boxes: what each of them is a map of, as ``boxes``; None: of the whole input.
    """

    scores: Tensor
    labels: Tensor
    boxes: Tensor | None
    mask_logits: Tensor | None
    mask_boxes: Tensor | None = None


class AveragePrecision(BaseMeter):
    """Average precision by torchmetrics, of boxes and of masks, as far as both model and labels have them."""

    def __init__(self, detections: Callable[[Outputs], Iterable[Detections]], kinds: tuple[Kind, ...]) -> None:
        """Start without an image.

        Args:
            detections: what outputs say is on each image.
            kinds: what is measured, in this order; the first has to be there.
        """
        self._detections = detections
        self._kinds = kinds
        self._metric: Any = None

    def add(self, outputs: Outputs, labels: Labels) -> None:
        """Add one batch, with the objects on each image.

        Raises:
            TaskError: labels are something else, or masks are there for some images alone, or torchmetrics is missing.
        """
        objects = _objects(labels)
        for found, there in zip(self._detections(outputs), objects, strict=True):
            if self._metric is None:
                self._start(found, there)
            self._metric.update([self._predicted(found, there)], [self._target(there)])
        self.images += len(objects)

    def _start(self, found: Detections, there: Objects) -> None:
        there_is = {"box": found.boxes is not None, "mask": found.mask_logits is not None and there.masks is not None}
        if not there_is[self._kinds[0]]:
            raise TaskError("objects have no masks, of which precision is measured: give masks, or --task detection")
        self._kinds = tuple(kind for kind in self._kinds if there_is[kind])
        self._metric = _mean_average_precision(tuple(_IOU_TYPES[kind] for kind in self._kinds))

    def metrics(self) -> dict[str, float]:
        """Return percentages; without a single object, 0."""
        computed = self._metric.compute()
        values: dict[str, float] = {}
        for kind in self._kinds:
            for name, key in ((f"{kind}_ap_percent", "map"), (f"{kind}_ap50_percent", "map_50")):
                values[name] = 100 * max(float(computed[self._key(kind, key)]), 0.0)
        return values

    def per_class(self) -> dict[int, dict[str, float]]:
        """Return average precisions in percent by class, of classes that there are objects of."""
        self._metric.class_metrics = True
        computed = self._metric.compute()
        self._metric.class_metrics = False
        values: dict[int, dict[str, float]] = {}
        for kind in self._kinds:
            precisions = computed[self._key(kind, "map_per_class")].reshape(-1).tolist()
            for label, value in zip(computed["classes"].reshape(-1).tolist(), precisions, strict=True):
                if value >= 0:
                    values.setdefault(label, {})[f"{kind}_ap_percent"] = 100 * value
        return values

    def _key(self, kind: Kind, name: str) -> str:
        """Return what torchmetrics calls a figure, of boxes or of masks where it measures both."""
        return f"{_IOU_TYPES[kind]}_{name}" if len(self._kinds) > 1 else name

    def _predicted(self, found: Detections, there: Objects) -> dict[str, Tensor]:
        made = {"scores": found.scores.cpu(), "labels": found.labels.cpu()}
        if "box" in self._kinds and found.boxes is not None:
            left, top, right, bottom = there.content
            boxes = found.boxes.cpu() - torch.tensor([left, top, left, top])
            shares = (boxes / torch.tensor([right - left, bottom - top] * 2)).clamp(0, 1)
            made["boxes"] = shares * torch.tensor([*there.size[::-1]] * 2)
        if "mask" in self._kinds and found.mask_logits is not None:
            shown = None if found.mask_boxes is None else found.mask_boxes.cpu()
            made["masks"] = on_image(found.mask_logits.cpu(), there.size, there.content, shown) > 0
        return made

    def _target(self, there: Objects) -> dict[str, Tensor]:
        made = {
            "boxes": torch.from_numpy(there.boxes).float(),
            "labels": torch.from_numpy(there.labels),
            "iscrowd": torch.from_numpy(there.crowd).long(),
        }
        if "mask" in self._kinds:
            if there.masks is None:
                raise TaskError("some images have masks and some have none: give masks for all objects, or for none")
            made["masks"] = torch.from_numpy(there.masks)
        return made


def _objects(labels: Labels) -> Sequence[Objects]:
    if isinstance(labels, Tensor) or not all(isinstance(each, Objects) for each in labels):
        raise TaskError("labels of detectors are the objects on each image: give --eval-data coco:FILE.json")
    return labels


def _mean_average_precision(iou_types: tuple[Literal["bbox", "segm"], ...]) -> Any:
    try:
        import faster_coco_eval  # noqa: F401 - torchmetrics uses it
        from torchmetrics.detection import MeanAveragePrecision
    except ImportError as error:
        raise TaskError(
            "average precision needs the packages torchmetrics and faster-coco-eval: pip install 'autoq[detection]'"
        ) from error
    metric = MeanAveragePrecision(iou_type=iou_types, backend="faster_coco_eval", compute_with_cache=False)
    metric.warn_on_many_detections = False
    return metric
