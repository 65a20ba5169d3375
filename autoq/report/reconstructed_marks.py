"""Recipes that were reconstructed, on a picture: a marker of their own, and an arrow from the recipe as searched."""

from __future__ import annotations

from typing import TYPE_CHECKING

from autoq.report.placing import box_around, boxes_between
from autoq.report.scales import Scale
from autoq.report.summary import RunSummary

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.transforms import Bbox

GREEN = "#009e73"
"""Okabe and Ito's bluish green."""


def draw_reconstructed(axes: Axes, summary: RunSummary, scale: Scale) -> None:
    """Draw what was reconstructed on the axes of ``scale``."""
    for found in summary.reconstructed:
        if (height := scale.height(found)) is not None:
            marker = "v" if scale.is_below(found) else "s"
            axes.scatter([found.bops], [height], s=62, marker=marker, color=GREEN, edgecolor="white", zorder=5.5)
    if summary.reconstructed:
        axes.scatter([], [], s=62, marker="s", color=GREEN, edgecolor="white", label="reconstructed")
    for x, before, after in _places(summary, scale):
        if before is not None and before != after:
            axes.annotate(
                "",
                (x, after),
                xytext=(x, before),
                zorder=5.2,
                arrowprops={"arrowstyle": "->", "color": GREEN, "linewidth": 1.3, "shrinkA": 4, "shrinkB": 4},
            )


def reconstructed_boxes(axes: Axes, summary: RunSummary, scale: Scale) -> list[Bbox]:
    """Return the boxes that labels should not cover: the markers and their arrows."""
    boxes = []
    for x, before, after in _places(summary, scale):
        boxes.append(box_around(axes, x, after))
        if before is not None:
            start, end = (tuple(axes.transData.transform((x, y))) for y in (before, after))
            boxes += boxes_between(start, end)
    return boxes


def _places(summary: RunSummary, scale: Scale) -> list[tuple[int, float | None, float]]:
    """Return cost and heights before (where it was measured) and after."""
    found = ((each, scale.height(each)) for each in summary.reconstructed)
    return [(each.bops, scale.height(each.point), height) for each, height in found if height is not None]
