"""Cells of nearly equal bounds: channels or rows that are alike."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def split_into_cells(points: NDArray[np.float32], count: int) -> NDArray[np.int64]:
    """Halve the cell of greatest squared deviation at its mean until there are ``count`` cells.

    Args:
        points: lower and upper bound of each channel or row, of shape (points, 2).
        count: of cells; there are fewer where points are equal.

    Returns:
        Cell of each point, from 0, of shape (points,).
    """
    cell_of = np.zeros(len(points), dtype=np.int64)
    members = [np.arange(len(points))]
    deviation = [_deviation(points)]
    while len(members) < count:
        cell = int(np.argmax([spread.max() for spread in deviation]))
        if not deviation[cell].max() > 0:
            break
        mine = members[cell]
        along = points[mine, int(deviation[cell].argmax())].astype(np.float64)
        is_above = along > along.mean()
        if is_above.all() or not is_above.any():  # equal but for rounding
            deviation[cell][:] = 0
            continue
        members[cell], above = mine[~is_above], mine[is_above]
        cell_of[above] = len(members)
        members.append(above)
        deviation[cell] = _deviation(points[members[cell]])
        deviation.append(_deviation(points[above]))
    return cell_of


def _deviation(points: NDArray[np.float32]) -> NDArray[np.float64]:
    """Sum the squared deviations from the mean over the points, along each axis."""
    return np.asarray(points.astype(np.float64).var(0) * len(points))
