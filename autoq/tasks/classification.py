"""Classification: logits of classes, compared as the probabilities that softmax makes of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from autoq.errors import TaskError
from autoq.tasks._base import BaseTask, LabelKind, mean_of_positions
from autoq.tasks._meter import BaseMeter, Labels, Outputs, as_tensor
from autoq.tasks.heads import BaseHead, CategoricalHead
from autoq.units import Metric

_OF_OTHER_TASKS = (
    ("pred_boxes", "boxes", "detection"),
    ("masks_queries_logits", "masks of objects", "instance-segmentation"),
)
"""Leaves that only models for other tasks return: name, what they are, the task."""
_DIMENSIONS_OF_MAPS = 4
"""Images, channels, rows and columns."""


@dataclass(frozen=True)
class ClassificationTask(BaseTask):
    """Logits of shape (N, ..., classes); what lies between (queries, pixels) are positions, which share an image.

    >>> import math
    >>> import torch
    >>> task = ClassificationTask()
    >>> even, sure = torch.zeros(1, 2), torch.tensor([[0.0, math.log(4)]])
    >>> round(float(task.divergence((even,), (sure,))), 4)  # ½ log(5/2) + ½ log(5/8)
    0.2231
    """

    name: ClassVar[str] = "classification"
    metrics: ClassVar[tuple[Metric, ...]] = (
        Metric("top1_percent", "top-1", "top-1 accuracy", "%"),
        Metric("top5_percent", "top-5", "top-5 accuracy", "%"),
    )
    element: ClassVar[str] = "logit"
    divergence_in_words: ClassVar[str] = "the Kullback–Leibler divergence of the predicted class probabilities"
    labels: ClassVar[LabelKind] = "class"
    has_agreement: ClassVar[bool] = True
    has_right_answers: ClassVar[bool] = True

    @property
    def heads(self) -> tuple[BaseHead, ...]:
        """Classes along the last axis."""
        return (CategoricalHead(leaves=("logits",)),)

    def select(self, leaves: Sequence[object], names: Sequence[str] = ()) -> tuple[int, ...]:
        """Say which leaf is compared; see ``BaseTask.select``.

        Raises:
            TaskError: there is no such leaf; or no leaf was asked for, and the model finds objects or returns maps.
        """
        for leaf, what, task in _OF_OTHER_TASKS:
            if self.output is None and leaf in names:
                raise TaskError(
                    f"the model returns {what}, which classification does not compare: use --task {task}, or --output "
                    "to name what is compared alone"
                )
        (position,) = chosen = super().select(leaves, names)
        found = leaves[position]
        if self.output is None and isinstance(found, Tensor) and found.ndim == _DIMENSIONS_OF_MAPS:
            raise TaskError(
                f"the model returns maps of shape {tuple(found.shape)}, whose last axis classification would take for "
                "classes: use --task semantic-segmentation for classes of pixels, --task dense for other maps, or "
                "--output to name what is compared, its classes along the last axis"
            )
        return chosen

    def agreement(self, reference: Outputs, quantized: Outputs) -> Tensor:
        """Return the share of each image's positions whose likeliest class is the same."""
        (expected,), (found,) = reference, quantized
        return mean_of_positions((expected.argmax(-1) == found.argmax(-1)).double())

    def correct(self, outputs: Outputs, labels: Labels) -> Tensor:
        """Tell whether the label is the likeliest class; where a logit is not finite it is not."""
        (logits,) = outputs
        return (logits.argmax(-1) == as_tensor(labels)) & torch.isfinite(logits).all(-1)

    def meter(self) -> BaseMeter:
        """Count labels that are the likeliest class, or among the five likeliest."""
        return _TopClasses()


class _TopClasses(BaseMeter):
    """Counts images whose label is among the likeliest classes."""

    def __init__(self) -> None:
        self._top1 = self._top5 = 0

    def add(self, outputs: Outputs, labels: Labels) -> None:
        """Count one batch: logits of shape (N, classes), class indices of shape (N,)."""
        (logits,) = outputs
        hits = logits.topk(min(5, logits.shape[-1]), dim=-1).indices == as_tensor(labels).unsqueeze(1)
        self._top1 += int(hits[:, 0].sum())
        self._top5 += int(hits.any(1).sum())
        self.images += len(labels)

    def metrics(self) -> dict[str, float]:
        """Return percentages of the images."""
        return {"top1_percent": 100 * self._top1 / self.images, "top5_percent": 100 * self._top5 / self.images}


CLASSIFICATION = ClassificationTask()
"""What a model's output is taken for if nothing else is said."""
