"""Accuracy on labelled images that calibration never sees."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from autoq.graph.insert import QuantizedModel


@dataclass(frozen=True)
class Accuracy:
    """Share of images whose label is the most likely class, and among the five most likely ones."""

    top1_percent: float
    top5_percent: float
    images: int


class Hits:
    """Counts images whose label is among the most likely classes, batch by batch."""

    def __init__(self) -> None:
        """Start with no image."""
        self.images = self._top1 = self._top5 = 0

    def add(self, logits: Tensor, labels: Tensor) -> None:
        """Count one batch: logits of shape (N, classes), class indices of shape (N,)."""
        hits = logits.topk(min(5, logits.shape[-1]), dim=-1).indices == labels.unsqueeze(1)
        self._top1 += int(hits[:, 0].sum())
        self._top5 += int(hits.any(1).sum())
        self.images += len(labels)

    def accuracy(self) -> Accuracy:
        """The accuracy over all batches so far.

        Raises:
            ValueError: no batch was added.
        """
        if not self.images:
            raise ValueError("no images to measure accuracy on")
        return Accuracy(100 * self._top1 / self.images, 100 * self._top5 / self.images, self.images)


def measure_accuracy(
    model: QuantizedModel, batches: Iterable[tuple[Tensor, Tensor]], progress: Callable[[int], None] | None = None
) -> Accuracy:
    """Accuracy of a model with whatever its slots hold.

    Args:
        model: what to measure.
        batches: images of shape (N, C, H, W) and class indices of shape (N,), on the model's device.
        progress: called with the number of images of each finished batch.

    Raises:
        ValueError: there is no image.
    """
    hits = Hits()
    with torch.no_grad():
        for batch, labels in batches:
            hits.add(model.run(batch)[0], labels)
            if progress is not None:
                progress(len(labels))
    return hits.accuracy()
