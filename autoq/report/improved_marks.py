"""Recipes that were finished or reconstructed, on a picture: markers, and arrows from the recipes as searched."""

from __future__ import annotations

from typing import TYPE_CHECKING

from autoq.report.placing import box_around, boxes_between
from autoq.report.scales import Scale
from autoq.report.summary import RunSummary

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.transforms import Bbox

    from autoq.runs.search.record import ImprovedKind

GREEN = "#009e73"
"""Okabe and Ito's bluish green."""


_COLORS = {"finished": ("white", GREEN), "reconstructed": (GREEN, "white")}
"""Face and edge of markers by kind."""


def draw_improved(axes: Axes, summary: RunSummary, scale: Scale) -> None:
    """Draw what was finished and reconstructed on the axes of ``scale``."""
    for found in summary.improved:
        if (height := scale.height(found)) is not None:
            _draw_marker(axes, found.kind, ([found.cost], [height]), "v" if scale.is_below(found) else "s")
    for kind in dict.fromkeys(found.kind for found in summary.improved):
        _draw_marker(axes, kind, ([], []), "s", kind)
    for x, before, after in _places(summary, scale):
        if before is not None and before != after:
            axes.annotate(
                "",
                (x, after),
                xytext=(x, before),
                zorder=5.2,
                arrowprops={"arrowstyle": "->", "color": GREEN, "linewidth": 1.3, "shrinkA": 4, "shrinkB": 4},
            )


def _draw_marker(
    axes: Axes,
    kind: ImprovedKind,
    place: tuple[list[int], list[float]],
    marker: str,
    label: str | None = None,
) -> None:
    face, edge = _COLORS[kind]
    axes.scatter(*place, s=62, marker=marker, color=face, edgecolor=edge, zorder=5.5, label=label)


def improved_boxes(axes: Axes, summary: RunSummary, scale: Scale) -> list[Bbox]:
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
    found = ((each, scale.height(each)) for each in summary.improved)
    return [(each.cost, scale.height(each.point), height) for each, height in found if height is not None]
