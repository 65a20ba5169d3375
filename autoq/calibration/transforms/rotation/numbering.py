"""Numbers in place of values, and what can be told from where a move took them."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from autoq.graph.probing import numbered_like

NOTHING = -1
"""The number of what padding added."""


def number_along(x: Tensor, axis: int) -> Tensor:
    """Number all elements of ``x`` so that those of one vector along ``axis`` follow one another.

    Args:
        x: any tensor.
        axis: the axis that runs fastest.

    Returns:
        Integers of the shape of ``x``, laid out in memory as it is.
    """
    moved = x.movedim(axis, -1).shape
    return numbered_like(x, torch.arange(x.numel(), device=x.device).reshape(moved).movedim(-1, axis))


def blocks_along(numbers: Tensor, axis: int, width: int) -> Tensor:
    """Cut an axis into blocks, of shape (vectors, copies, width)."""
    size = numbers.shape[axis]
    return numbers.movedim(axis, -1).reshape(-1, size // width, width)


def find_order(numbers: Tensor, width: int) -> tuple[int, int] | None:
    """Find the axis on which whole runs of ``width`` numbers lie, as they were before a move.

    Args:
        numbers: from :func:`number_along`, moved; :data:`NOTHING` where values were added, whole runs of them.
        width: of a run.

    Returns:
        The axis, counted from the last (-1), and the runs that lie side by side on it; None if runs were torn apart.
    """
    for axis in range(-1, -numbers.ndim - 1, -1):
        if numbers.shape[axis] % width:
            continue
        blocks = blocks_along(numbers, axis, width)
        first = blocks[..., :1]
        is_run = (first % width == 0) & (blocks == first + torch.arange(width, device=blocks.device))
        is_run &= first >= 0
        if (is_run | (blocks == NOTHING)).all() and is_run.any():
            return axis, numbers.shape[axis] // width
    return None


def find_source_axis(numbers: Tensor, axis: int, width: int, shape: torch.Size) -> int | None:
    """Find the axis of a constant along which runs of ``width`` of its entries became runs along ``axis``.

    Args:
        numbers: of the constant's elements in its own order, moved and expanded.
        axis: where the runs are looked for.
        width: of a run.
        shape: of the constant.
    """
    blocks = blocks_along(numbers, axis, width)  # (vectors, copies, width)
    first = blocks[..., :1]
    for own, size in enumerate(shape):
        stride = math.prod(shape[own + 1 :])
        starts = (first // stride % size) % width == 0
        if size % width == 0 and starts.all():
            steps = torch.arange(width, device=blocks.device) * stride
            if (blocks == first + steps).all():
                return own
    return None
