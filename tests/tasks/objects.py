"""Objects on images, and what a detector says that finds them."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from autoq.data.objects import Objects

SIZE = (20, 40)


def objects(*boxes: tuple[int, int, int, int], labels: tuple[int, ...] | None = None, masks: bool = True) -> Objects:
    """Objects that fill their boxes (left, top, right, bottom) in an image of 20×40 pixels."""
    filled = np.zeros((len(boxes), *SIZE), dtype=bool)
    for mask, (left, top, right, bottom) in zip(filled, boxes, strict=True):
        mask[top:bottom, left:right] = True
    return Objects(
        size=SIZE,
        labels=np.array(range(len(boxes)) if labels is None else labels, dtype=np.int64),
        boxes=np.array(boxes, dtype=np.float64).reshape(-1, 4),
        masks=filled if masks else None,
        crowd=np.zeros(len(boxes), dtype=bool),
    )


def found(there: Objects, queries: int, classes: int, logit: float = 6.0) -> tuple[Tensor, Tensor, Tensor]:
    """Outputs for one image that find all objects, of shapes (1, queries, ...)."""
    logits = torch.full((1, queries, classes), -logit)
    boxes = torch.full((1, queries, 4), 0.5)
    masks = torch.full((1, queries, *SIZE), -logit)
    for query, (label, box) in enumerate(zip(there.labels, there.boxes, strict=True)):
        logits[0, query, label] = logit
        left, top, right, bottom = box / [SIZE[1], SIZE[0], SIZE[1], SIZE[0]]
        boxes[0, query] = torch.tensor([(left + right) / 2, (top + bottom) / 2, right - left, bottom - top])
        if there.masks is not None:
            masks[0, query][torch.from_numpy(there.masks[query])] = logit
    return logits, boxes, masks
