"""Placing text on a picture where it covers nothing."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.patheffects import AbstractPathEffect
    from matplotlib.text import Annotation
    from matplotlib.transforms import Bbox

_DIRECTIONS = ((1, 1), (1, -1), (0, 1), (1, 0), (-1, 1), (0, -1), (-1, 0), (-1, -1))
_DISTANCES = (5.0, 10.0, 18.0, 28.0, 40.0)
"""Points between a marker and its label."""
_NEAR = 10.0
"""Points up to which a label needs no line to its marker."""
_HORIZONTAL = {1: "left", 0: "center", -1: "right"}
_VERTICAL = {1: "bottom", 0: "center", -1: "top"}


def box_around(axes: Axes, x: float, y: float, radius: float = 7.0) -> Bbox:
    """Return the box, in points of the screen, that a marker at data coordinates covers."""
    from matplotlib.transforms import Bbox

    centre_x, centre_y = axes.transData.transform((x, y))
    radius *= axes.figure.dpi / 72
    return Bbox.from_extents(centre_x - radius, centre_y - radius, centre_x + radius, centre_y + radius)


def boxes_between(start: tuple[float, float], end: tuple[float, float], steps: int = 24) -> list[Bbox]:
    """Return small boxes along a line between two places on the screen."""
    from matplotlib.transforms import Bbox

    boxes = []
    for step in range(steps + 1):
        x, y = (a + (b - a) * step / steps for a, b in zip(start, end, strict=True))
        boxes.append(Bbox.from_extents(x - 2, y - 2, x + 2, y + 2))
    return boxes


def corners_of(boxes: Sequence[Bbox]) -> NDArray[np.float64]:
    """Return the corners of boxes, (boxes, 4): left, bottom, right, top."""
    return np.array([box.get_points().ravel() for box in boxes]).reshape(-1, 4)


def count_covered(box: Bbox, corners: NDArray[np.float64]) -> int:
    """Count the boxes that a box overlaps or touches.

    >>> from matplotlib.transforms import Bbox
    >>> count_covered(Bbox([[0, 0], [2, 1]]), np.array([[1.0, 0.0, 3.0, 3.0], [4.0, 0.0, 5.0, 1.0]]))
    1
    """
    left, bottom, right, top = corners.T
    return int(np.count_nonzero((box.x0 <= right) & (left <= box.x1) & (box.y0 <= top) & (bottom <= box.y1)))


def halo() -> list[AbstractPathEffect]:
    """Return a white edge that keeps text readable on top of lines."""
    from matplotlib.patheffects import withStroke

    return [withStroke(linewidth=2.5, foreground="white")]


def place_label(
    axes: Axes,
    text: str,
    x: float,
    y: float,
    taken: list[Bbox],
    color: str,
    others: Sequence[tuple[float, float]] = (),
) -> None:
    """Write ``text`` where it covers least of ``taken`` and is nearer to its own point than to any other.

    Args:
        axes: that it is written on.
        text: the label.
        x: of its point, in data coordinates.
        y: of its point.
        taken: what is covered already; the label is added.
        color: of the label.
        others: data coordinates of other points that have labels, for which it must not be taken.
    """
    label = axes.annotate(
        text,
        (x, y),
        xytext=(0, 0),
        textcoords="offset points",
        fontsize=9,
        color=color,
        zorder=7,
        path_effects=halo(),
    )
    own, *rivals = map(tuple, axes.transData.transform([(x, y), *others]))
    size, corners, pixels = label.get_window_extent().size, corners_of(taken), axes.figure.dpi / 72
    tried: list[tuple[int, int, float, int, int]] = []
    for distance in _DISTANCES:
        for across, up in _DIRECTIONS:
            box = _box_beside(own, size, distance * pixels, across, up)
            inside = (
                axes.bbox.x0 <= box.x0 and box.x1 <= axes.bbox.x1 and axes.bbox.y0 <= box.y0 <= box.y1 <= axes.bbox.y1
            )
            mistaken = any(
                _apart(box, rival) < 1.3 * _apart(box, own) for rival in rivals if tuple(rival) != tuple(own)
            )
            covered = count_covered(box, corners) + (0 if inside else 100) + (10 if mistaken else 0)
            tried.append((covered, len(tried), distance, across, up))
    _, _, distance, across, up = min(tried)
    _move(label, distance, across, up)
    taken.append(label.get_window_extent())
    if distance > _NEAR:
        _draw_leader(axes, (x, y), taken[-1], color)


def _move(label: Annotation, distance: float, across: int, up: int) -> None:
    label.set(ha=_HORIZONTAL[across], va=_VERTICAL[up], position=(across * distance, up * distance))


def _box_beside(place: Sequence[float], size: Sequence[float], distance: float, across: int, up: int) -> Bbox:
    """Return the box of a text of some size, in pixels, that stands where :func:`_move` puts it."""
    from matplotlib.transforms import Bbox

    left, bottom = (
        at + direction * distance - extent * (1 - direction) / 2
        for at, extent, direction in zip(place, size, (across, up), strict=True)
    )
    return Bbox.from_bounds(left, bottom, *size)


def _apart(box: Bbox, place: Sequence[float]) -> float:
    """Return how far a place on the screen is from a box."""
    across = max(box.x0 - place[0], place[0] - box.x1, 0.0)
    up = max(box.y0 - place[1], place[1] - box.y1, 0.0)
    return math.hypot(across, up)


def _draw_leader(axes: Axes, point: tuple[float, float], box: Bbox, color: str) -> None:
    """Join a point with a label that is not beside it, by a short line within the axes."""
    place = axes.transData.transform(point)
    end = (min(max(place[0], box.x0), box.x1), min(max(place[1], box.y0), box.y1))
    axes.annotate(
        "",
        point,
        xytext=tuple(axes.transData.inverted().transform(end)),
        zorder=4,
        arrowprops={"arrowstyle": "-", "color": color, "linewidth": 0.7, "shrinkA": 0, "shrinkB": 3},
    )
