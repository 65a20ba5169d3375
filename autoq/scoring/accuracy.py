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
    top1 = top5 = images = 0
    with torch.no_grad():
        for batch, labels in batches:
            logits = model.run(batch)[0]
            ranked = logits.topk(min(5, logits.shape[-1]), dim=-1).indices
            hits = ranked == labels.unsqueeze(1)
            top1 += int(hits[:, 0].sum())
            top5 += int(hits.any(1).sum())
            images += len(labels)
            if progress is not None:
                progress(len(labels))
    if not images:
        raise ValueError("no images to measure accuracy on")
    return Accuracy(100 * top1 / images, 100 * top5 / images, images)
