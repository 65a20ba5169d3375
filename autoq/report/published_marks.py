"""Published methods on a picture: a marker for each."""

from __future__ import annotations

from typing import TYPE_CHECKING

from autoq.report.placing import box_around
from autoq.report.scales import Scale
from autoq.report.summary import RunSummary

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.transforms import Bbox

PURPLE = "#cc79a7"
"""Okabe and Ito's reddish purple."""


def draw_published(axes: Axes, summary: RunSummary, scale: Scale) -> None:
    """Draw the published methods on the axes of ``scale``."""
    for x, height, is_below in _places(summary, scale):
        marker = "v" if is_below else "P"
        axes.scatter([x], [height], s=62, marker=marker, color=PURPLE, edgecolor="white", zorder=5.1)
    if summary.published:
        axes.scatter([], [], s=62, marker="P", color=PURPLE, edgecolor="white", label="published methods")


def published_boxes(axes: Axes, summary: RunSummary, scale: Scale) -> list[Bbox]:
    """Return the boxes that labels should not cover: the markers."""
    return [box_around(axes, x, height) for x, height, _ in _places(summary, scale)]


def _places(summary: RunSummary, scale: Scale) -> list[tuple[int, float, bool]]:
    """Return cost, height and whether that is below the axis, of those that were measured."""
    found = ((point, scale.height(point)) for point in summary.published)
    return [(p.cost, height, scale.is_below(p)) for p, height in found if height is not None]
