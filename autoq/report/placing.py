"""Placing text on a picture where it covers nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.patheffects import AbstractPathEffect
    from matplotlib.transforms import Bbox

_DIRECTIONS = ((1, 1), (1, -1), (0, 1), (1, 0), (-1, 1), (0, -1), (-1, 0), (-1, -1))
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


def halo() -> list[AbstractPathEffect]:
    """Return a white edge that keeps text readable on top of lines."""
    from matplotlib.patheffects import withStroke

    return [withStroke(linewidth=2.5, foreground="white")]


def place_label(axes: Axes, text: str, x: float, y: float, taken: list[Bbox], color: str) -> None:
    """Write ``text`` beside data coordinates, in the direction that covers least of ``taken``; it is then taken too."""
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
    tried: list[tuple[int, int, float, int, int]] = []
    for distance in (5.0, 10.0, 18.0):
        for across, up in _DIRECTIONS:
            label.set(ha=_HORIZONTAL[across], va=_VERTICAL[up], position=(across * distance, up * distance))
            box = label.get_window_extent()
            inside = (
                axes.bbox.x0 <= box.x0 and box.x1 <= axes.bbox.x1 and axes.bbox.y0 <= box.y0 <= box.y1 <= axes.bbox.y1
            )
            covered = sum(box.overlaps(other) for other in taken) + (0 if inside else 100)
            tried.append((covered, len(tried), distance, across, up))
    _, _, distance, across, up = min(tried)
    label.set(ha=_HORIZONTAL[across], va=_VERTICAL[up], position=(across * distance, up * distance))
    taken.append(label.get_window_extent())
