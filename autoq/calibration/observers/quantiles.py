"""Exact quantiles of rows of any length."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from autoq.calibration.observers._base import Bounds

_PIECE = 1 << 16
"""Values of a row searched for its extremes at a time, while they are in a cache."""


def quantile_bounds(rows: Tensor, percentiles: Sequence[float]) -> Bounds:
    """Compute the quantiles of each row at K percentiles, and at 100 less these, as ``torch.quantile`` defines them.

    Args:
        rows: of shape (rows, n); n may be greater than ``torch.quantile`` allows.
        percentiles: from 50 to 100.

    Returns:
        Lower and upper bounds of shape (K, rows), float32, interpolated between neighbouring values.

    >>> quantile_bounds(torch.arange(11.0).unsqueeze(0), (90.0, 100.0))
    (tensor([[1.],
            [0.]]), tensor([[ 9.],
            [10.]]))
    """
    last = rows.shape[1] - 1
    positions = [last * (1 - percentile / 100) for percentile in percentiles]
    count = min(math.floor(max(positions)) + 2, rows.shape[1])
    below, above = (_extremes(rows, count, largest=largest).float() for largest in (False, True))

    def at(extremes: Tensor, position: float) -> Tensor:
        outer = math.floor(position)
        return torch.lerp(extremes[:, outer], extremes[:, min(outer + 1, last)], position - outer)

    lower, upper = (torch.stack([at(extremes, position) for position in positions]) for extremes in (below, above))
    return lower, upper


def _extremes(rows: Tensor, count: int, *, largest: bool) -> Tensor:
    """Find the ``count`` outermost values of each row, from the outermost inwards."""
    pieces = torch.split(rows, max(_PIECE, 64 * count), dim=1)
    if len(pieces) > 1:
        of_pieces = [piece.topk(min(count, piece.shape[1]), dim=1, largest=largest).values for piece in pieces]
        rows = torch.cat(of_pieces, 1)
    return rows.topk(count, dim=1, largest=largest).values
