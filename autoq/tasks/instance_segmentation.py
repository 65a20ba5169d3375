"""Instance segmentation: objects by their masks, and boxes where the model has them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from autoq.tasks._average_precision import Kind
from autoq.tasks._base import LabelKind
from autoq.tasks.detection import DetectionTask
from autoq.units import Metric


@dataclass(frozen=True)
class InstanceSegmentationTask(DetectionTask):
    """Detection by a model that has masks, measured by these first; it need not have boxes (MaskFormer, Mask2Former).

    >>> import torch
    >>> task = InstanceSegmentationTask(scores="softmax")
    >>> logits, masks = torch.zeros(1, 2, 3), torch.zeros(1, 2, 4, 4)
    >>> bool(task.divergence((logits, masks), (logits, masks - 1)) > 0)
    True
    """

    name: ClassVar[str] = "instance-segmentation"
    metrics: ClassVar[tuple[Metric, ...]] = (*DetectionTask.metrics[2:], *DetectionTask.metrics[:2])
    class_metrics: ClassVar[tuple[Metric, ...]] = metrics[::2]
    labels: ClassVar[LabelKind] = "masks"
    kinds: ClassVar[tuple[Kind, Kind]] = ("mask", "box")
