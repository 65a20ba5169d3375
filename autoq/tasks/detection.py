"""Detection: boxes with classes, and masks where the model has them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, Self

from torch import Tensor

from autoq.errors import TaskError
from autoq.tasks._average_precision import AveragePrecision, Detections, Kind
from autoq.tasks._base import BaseTask, LabelKind, is_number, require_positive
from autoq.tasks._meter import BaseMeter, Outputs
from autoq.tasks.heads import BaseHead, BernoulliHead, CategoricalHead, LaplaceBoxesHead
from autoq.units import Metric

Scores = Literal["softmax", "sigmoid"]
MaskFrame = Literal["image", "box"]
MASKS_IN_BOXES = "pred_box_masks"
"""What a two-stage detector calls masks that are maps of what is in their boxes."""
_MASKS = "pred_masks"
_SET_PREDICTORS = frozenset({"last_hidden_state", "pred_logits", "class_queries_logits"})
"""Outputs that tell that queries were matched with objects one to one: of transformers' decoders, of DETR's own code
and what follows it, and of MaskFormer."""
_NMS_IOU = 0.6


@dataclass(frozen=True)
class DetectionTask(BaseTask):
    """Classes (N, queries, classes), boxes (N, queries, 4) and masks (N, queries, h, w), named as in transformers.

    Models without masks are served; those without boxes are by ``InstanceSegmentationTask``.

    Classes are independent (Bernoulli, by sigmoid), or exclude each other, the last being that there is no object
    (categorical, by softmax). Boxes are centre, width and height in shares of the input, with Laplace errors; masks are
    logits of independent pixels of it. The distributions of box and mask apply if there is an object: their importance
    is the full-precision probability of that. Boxes and masks both count in proportion to the object's size.

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
        nms_iou: of two boxes of a class that overlap by more, the less likely one is left out; 1: none is. None: 0.6,
            but 1 for models that predict a set, as DETR and those that follow it do: each query was trained to find
            another object. They are known by an output that is called ``last_hidden_state`` (transformers),
            ``pred_logits`` or ``class_queries_logits``.
        least_score: of what is found.
        most_objects: that are found on an image, the likeliest; COCO's average precision looks at 100.
        mask_frame: whether a mask is a map of the whole input, or of what is in its box.
    """

    scores: Scores | None = None
    box_weight: float = 1.0
    mask_weight: float = 1.0
    nms_iou: float | None = None
    least_score: float = 0.05
    most_objects: int = 100
    mask_frame: MaskFrame = "image"

    name: ClassVar[str] = "detection"
    metrics: ClassVar[tuple[Metric, ...]] = (
        Metric("box_ap_percent", "box AP", "average precision of boxes", "%"),
        Metric("box_ap50_percent", "box AP50", "average precision of boxes at IoU 0.5", "%"),
        Metric("mask_ap_percent", "mask AP", "average precision of masks", "%"),
        Metric("mask_ap50_percent", "mask AP50", "average precision of masks at IoU 0.5", "%"),
    )
    class_metrics: ClassVar[tuple[Metric, ...]] = metrics[::2]
    element: ClassVar[str] = "output element"
    divergence_in_words: ClassVar[str] = (
        "the Kullback–Leibler divergence of the predicted classes, boxes and masks, a mean over the queries of an image"
    )
    labels: ClassVar[LabelKind] = "objects"
    kinds: ClassVar[tuple[Kind, Kind]] = ("box", "mask")
    """What a model has beside classes, in the order of its leaves: the first it must have."""

    def __post_init__(self) -> None:
        """Check the settings.

        Raises:
            TaskError: a value cannot be used.
        """
        super().__post_init__()
        if self.scores not in (None, "softmax", "sigmoid"):
            raise TaskError(f"scores are by 'softmax' or 'sigmoid', not {self.scores!r}")
        if self.mask_frame not in ("image", "box"):
            raise TaskError(f"mask_frame is 'image' or 'box', not {self.mask_frame!r}")
        for name in ("box_weight", "mask_weight", *(() if self.nms_iou is None else ("nms_iou",))):
            require_positive(name, getattr(self, name))
        if not (is_number(self.least_score) and 0 <= self.least_score < 1):
            raise TaskError(f"least_score is {self.least_score!r}: give a number from 0 on, below 1")
        if not (type(self.most_objects) is int and self.most_objects >= 1):
            raise TaskError(f"most_objects is {self.most_objects!r}: give a whole number from 1 on")

    @property
    def heads(self) -> tuple[BaseHead, ...]:
        """Classes, and boxes and masks in the order of :attr:`kinds`."""
        leaves = ("logits", "pred_logits", "class_queries_logits")
        masks = (_MASKS, MASKS_IN_BOXES, "masks_queries_logits")
        made: dict[Kind, BaseHead] = {
            "box": LaplaceBoxesHead(("pred_boxes",), self.box_weight),
            "mask": BernoulliHead(masks, self.mask_weight, axes=2, relative=True),
        }
        required, optional = (made[kind] for kind in self.kinds)
        classes = CategoricalHead(leaves) if self.scores == "softmax" else BernoulliHead(leaves)
        return classes, required, replace(optional, optional=True)

    def _by_kind(self, outputs: Outputs) -> dict[Kind, Tensor]:
        """Return boxes and masks, as far as the model has them."""
        return dict(zip(self.kinds, outputs[1:], strict=False))

    def adapted(self, outputs: Outputs, num_classes: int | None, names: Sequence[str] = ()) -> Self:
        """Return the task with :attr:`scores`: softmax where there is one logit more than classes.

        Masks whose name is :data:`MASKS_IN_BOXES` are those of the boxes; a model that predicts a set keeps all boxes.

        Raises:
            TaskError: leaves are not of the same queries, or there are fewer logits than classes.
        """
        logits, parts = outputs[0], self._by_kind(outputs)
        queries, dimensions = logits.shape[:2], {"box": 3, "mask": 4}
        fit = all(leaf.ndim == dimensions[kind] and leaf.shape[:2] == queries for kind, leaf in parts.items())
        if logits.ndim != 3 or not fit or ("box" in parts and parts["box"].shape[2] != 4):
            shapes = ", ".join(str(tuple(leaf.shape)) for leaf in outputs)
            raise TaskError(
                f"the task {self.name!r} takes logits (N, queries, classes), boxes (N, queries, 4) and masks "
                f"(N, queries, h, w), but the model returns {shapes}: name its outputs so"
            )
        last_names = {name.rpartition(".")[2] for name in names}
        if MASKS_IN_BOXES in last_names and _MASKS not in last_names:
            self = replace(self, mask_frame="box")
        if self.nms_iou is None and last_names & _SET_PREDICTORS:
            self = replace(self, nms_iou=1.0)
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
        """Yield what is predicted on each image: the likeliest, as far as scores and :attr:`most_objects` allow.

        A model without boxes has a mask for each object that does not overlap others of its class, so that none is left
        out; its scores are those of classes times the mean probability of a mask's pixels (Cheng et al., CVPR 2022).
        """
        from torchvision.ops import batched_nms, box_convert

        logits, parts = outputs[0].float(), {kind: leaf.float() for kind, leaf in self._by_kind(outputs).items()}
        scores = logits.softmax(-1)[..., :-1] if self.scores == "softmax" else logits.sigmoid()
        masks, corners = parts.get("mask"), None
        if "box" in parts:
            corners = box_convert(parts["box"], "cxcywh", "xyxy").clamp(0, 1)
        elif masks is not None:
            scores = scores * _certainty(masks).unsqueeze(-1)
        nms_iou, most = _NMS_IOU if self.nms_iou is None else self.nms_iou, self.most_objects
        for image, own in enumerate(scores):
            query, label = (own >= self.least_score).nonzero().unbind(1)
            score = own[query, label]
            if corners is None or nms_iou >= 1:
                kept = score.argsort(descending=True, stable=True)[:most]
            else:
                kept = batched_nms(corners[image, query], score, label, nms_iou)[:most]
            query = query[kept]
            yield Detections(
                score[kept],
                label[kept],
                None if corners is None else corners[image, query],
                None if masks is None else masks[image, query],
                None if corners is None or self.mask_frame == "image" else corners[image, query],
            )

    def meter(self) -> BaseMeter:
        """Collect detections, and compute their average precision as COCO does."""
        return AveragePrecision(self.detections, self.kinds)

    def to_json(self) -> dict[str, Any]:
        """Return the name and the settings, weights among them whatever they are."""
        return {**super().to_json(), "box_weight": self.box_weight, "mask_weight": self.mask_weight}


def _certainty(mask_logits: Tensor) -> Tensor:
    """Return the mean probability of the pixels that masks (N, queries, h, w) consist of, of shape (N, queries)."""
    inside = mask_logits > 0
    return (mask_logits.sigmoid() * inside).sum((2, 3)) / inside.sum((2, 3)).clamp_min(1)
