"""The picture of a check of proxies: accuracy against discrepancy, and how well each proxy ranks recipes."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from autoq.report.figures import quiet_figure, save_figure
from autoq.report.placing import halo
from autoq.report.plots import BLUE, GRID, INK, SOFT, VERMILION
from autoq.report.text import literal_text
from autoq.runs.proxy_check.ranks import (
    BOPS,
    CLEAR_DEVIATIONS,
    NEAR_POINTS,
    CheckedRow,
    ProxyCheck,
    column,
)
from autoq.runs.proxy_check.recipes import ALLOCATED, DISTURBED, MUTATED, UNIFORM

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_GREEN = "#009e73"
_MARKERS = (
    (MUTATED, "^", SOFT, 34, "mutated"),
    (DISTURBED, "s", _GREEN, 26, "allocated of noisy sensitivities"),
    (ALLOCATED, "o", BLUE, 36, "allocated"),
    (UNIFORM, "D", VERMILION, 40, "uniform bits"),
)
"""Origin, marker, colour, size and name; what is drawn last lies on top."""
_SUBSETS = (
    ("all", INK, "o", "all"),
    ("near", BLUE, "D", f"both within {NEAR_POINTS:g} points of full precision"),
    ("clear", _GREEN, "s", f"accuracies at least {CLEAR_DEVIATIONS:g} standard errors apart"),
)
_ROW = 0.27
"""Inches for a proxy and number of images."""


def draw_proxy_check(check: ProxyCheck, path: str | os.PathLike[str], title: str, images: int) -> None:
    """Draw a check to a file.

    Args:
        check: what was found.
        path: where to.
        title: above the picture.
        images: number of images of the KL divergence on the left; the nearest that was measured is taken.
    """
    with literal_text():
        figure = _make_figure(check, title, images)
        save_figure(figure, path)


def _make_figure(check: ProxyCheck, title: str, images: int) -> Figure:
    measures = list(dict.fromkeys((rank.proxy, rank.images) for rank in check.ranks))
    figure = quiet_figure(12.4, max(5.2, 2.1 + _ROW * len(measures)))
    figure.set_layout_engine("constrained")
    figure.suptitle(title, x=0.012, ha="left", fontsize=13, color=INK)
    left, right = figure.subplots(1, 2, width_ratios=(1.0, 1.05))
    counts = [count for proxy, count in measures if proxy == "kl" and count is not None]
    _draw_recipes(left, check, min(counts, key=lambda count: abs(count - images)))
    _draw_taus(right, check, measures)
    for axes in (left, right):
        axes.set_axisbelow(True)
        axes.tick_params(colors=INK, labelsize=9.5)
        axes.spines[["top", "right"]].set_visible(False)
    return figure


def _draw_recipes(axes: Axes, check: ProxyCheck, images: int) -> None:
    """Draw the main metric against the KL divergence, one marker a recipe."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    losses = [row.losses[column("kl", images)] for row in check.rows]
    drawable = [loss for loss in losses if 0 < loss < math.inf] or [0.1, 1.0]
    low, high = min(drawable), max(drawable)
    _draw_markers(axes, check.rows, column("kl", images), (low / 1.5, high * 1.5))
    _draw_full_precision(axes, check.full_precision_percent)
    axes.set_xscale("log")
    axes.set_xlim(low / 2, high * 2)
    axes.set_ylim(*_percent_limits(check.rows, check.full_precision_percent))
    axes.xaxis.set_major_locator(LogLocator(base=10, numticks=20))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.set_xlabel(f"KL from full precision (nats), mean over {images} calibration images", fontsize=10.5)
    axes.set_ylabel(f"{check.metric.axis_label} on {check.labelled_images} labelled images", fontsize=10.5)
    axes.grid(visible=True, color=GRID, linewidth=0.8)
    axes.legend(loc="lower left", fontsize=9.5, frameon=True, framealpha=0.9, edgecolor="none")


def _draw_markers(axes: Axes, all_rows: Sequence[CheckedRow], loss: str, limits: tuple[float, float]) -> None:
    """Draw a marker for each recipe, by origin; ``loss`` names the column on the horizontal axis."""
    low, high = limits
    for origin, marker, color, size, name in _MARKERS:
        rows = [row for row in all_rows if row.origin == origin]
        if rows:
            # Zero and infinity have no place on a logarithmic axis: they are drawn at its ends.
            x = [min(max(row.losses[loss], low), high) for row in rows]
            axes.scatter(
                x,
                [row.percent for row in rows],
                s=size,
                marker=marker,
                color=color,
                edgecolor="white",
                linewidth=0.6,
                zorder=3,
                label=name,
            )


def _draw_full_precision(axes: Axes, full: float) -> None:
    """Draw full precision as a line, and the band of ``NEAR_POINTS`` below it."""
    axes.axhspan(full - NEAR_POINTS, full, color="#f1f4f7", zorder=0)
    axes.axhline(full, color=SOFT, linewidth=1.2, linestyle=(0, (1, 1.5)), zorder=1)
    # Recipes this near to full precision with a small discrepancy lie at the top of the band, not at its bottom.
    axes.annotate(
        f"within {NEAR_POINTS:g} points of full precision, {full:.1f} %",
        (0.015, full - NEAR_POINTS),
        xycoords=axes.get_yaxis_transform(),
        xytext=(0, 4),
        textcoords="offset points",
        fontsize=9,
        color=SOFT,
        path_effects=halo(),
    )


def _percent_limits(rows: Sequence[CheckedRow], full: float) -> tuple[float, float]:
    """Return limits around all recipes and the whole band, so that noise never fills the axis."""
    values = [row.percent for row in rows]
    low, high = min([*values, full - NEAR_POINTS]), max([*values, full])
    return low - 0.06 * (high - low), high + 0.06 * (high - low)


def _draw_taus(axes: Axes, check: ProxyCheck, measures: Sequence[tuple[str, int | None]]) -> None:
    """Draw a row for each proxy and number of images, with a dot and its interval for each subset."""
    pairs = {subset.name: subset for subset in check.subsets}
    places = _places(measures)
    for number, (name, color, marker, title) in enumerate(_SUBSETS):
        offset = 0.24 * (number - (len(_SUBSETS) - 1) / 2)
        found = [(y + offset, check.rank_of(*measure, name)) for y, measure in zip(places, measures, strict=True)]
        known = [(y, a.tau, a.low, a.high) for y, a in found if a.tau is not None]
        for y, tau, low, high in known:
            low, high = (tau if end is None else end for end in (low, high))
            axes.plot([low, high], [y, y], color=color, linewidth=1.6, alpha=0.45, solid_capstyle="butt", zorder=2)
        label = f"{title}: {pairs[name].pairs:,} pairs"
        taus, heights = [tau for _, tau, _, _ in known], [y for y, *_ in known]
        axes.scatter(taus, heights, s=20, marker=marker, color=color, zorder=3, label=label)
        if name != "clear" and (ceiling := pairs[name].ceiling.redrawn) is not None:
            axes.axvline(ceiling, color=color, linewidth=1.1, linestyle=(0, (4, 2)), zorder=1)
    lows = [rank.agreement.low for rank in check.ranks if rank.subset in {name for name, *_ in _SUBSETS}]
    axes.set_xlim(min([0.5, *(low - 0.03 for low in lows if low is not None)]), 1.01)
    axes.set_ylim(places[-1] + 0.7, places[0] - 0.7)
    axes.set_yticks(places, [_measure_name(*measure) for measure in measures])
    axes.tick_params(axis="y", length=0)
    axes.grid(visible=True, axis="x", color=GRID, linewidth=0.8)
    label = f"Kendall's tau with {check.metric.title}, 90 % interval over recipes"
    if pairs["all"].ceiling.redrawn is not None:
        label += f"\ndashed: {check.metric.title} itself, on as many labelled images drawn again"
    axes.set_xlabel(label, fontsize=10.5)
    axes.legend(loc="lower left", bbox_to_anchor=(-0.03, 1.0), fontsize=9, frameon=False)


def _places(measures: Sequence[tuple[str, int | None]]) -> list[float]:
    """Return the heights of the rows, with a wider gap between different proxies."""
    places: list[float] = []
    for index, (proxy, _) in enumerate(measures):
        together = index and (proxy == measures[index - 1][0])
        places.append(0.0 if not index else places[-1] + (1.0 if together else 1.5))
    return places


def _measure_name(proxy: str, images: int | None) -> str:
    return "BOPs alone" if proxy == BOPS else f"{proxy}, {images} images"
