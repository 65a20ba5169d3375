"""The picture of a run: discrepancy, and accuracy where labels exist, against the cost that its front is over."""

from __future__ import annotations

import os
from itertools import pairwise
from typing import TYPE_CHECKING

from autoq.cost.kinds import BOPS
from autoq.errors import InputError
from autoq.report.figures import new_axes, quiet_figure, save_figure
from autoq.report.improved_marks import draw_improved, improved_boxes
from autoq.report.placing import box_around, boxes_between, corners_of, count_covered, halo, place_label
from autoq.report.points import Point
from autoq.report.published_marks import PURPLE, draw_published, published_boxes
from autoq.report.scales import Quantity, Scale, is_wide, make_scale
from autoq.report.summary import RunSummary
from autoq.report.text import literal_text
from autoq.report.words import note
from autoq.units import prefix_for, readable_budget

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure
    from matplotlib.text import Text
    from matplotlib.transforms import Bbox

# Okabe and Ito's colours: told apart with any colour vision; the markers differ as well.
BLUE, VERMILION, YELLOW = "#0072b2", "#d55e00", "#f0e442"
INK, SOFT, GRID = "#222222", "#70757d", "#e6e8eb"

_CORNERS = ((0.025, 0.04), (0.975, 0.04), (0.025, 0.88), (0.975, 0.96))
"""Where a note can go, emptiest first: nothing lies below a front; the fourth leaves room for a line of text."""


def draw_pareto(summary: RunSummary, path: str | os.PathLike[str]) -> None:
    """Draw a run: one panel, or two when accuracy was measured.

    Raises:
        InputError: ``path`` ends in none of ``.png``, ``.svg`` and ``.pdf``.
    """
    with literal_text():
        save_figure(_make_figure(summary), path)


def plot_front(summary: RunSummary, measure: str | None = None, ax: Axes | None = None) -> Axes:
    """Draw the front of a run and what it is compared with, against the cost that it is over.

    Args:
        summary: of the run.
        measure: what to draw against cost: the name of the loss that recipes are chosen by (mostly ``kl_nats``), or of
            the task's main metric; None: the loss.
        ax: where to draw; None: on a figure of its own, made by pyplot, so that notebooks show it.

    Raises:
        InputError: that was not measured.
    """
    names = {"loss": summary.loss.name, "metric": summary.metric.name}
    known = {names[each]: each for each in _quantities(summary)}
    chosen = _quantities(summary)[0] if measure is None else known.get(measure)
    if chosen is None:
        raise InputError(f"{measure!r} was not measured, {', '.join(known)} was: search with labelled images")
    with literal_text():
        axes = new_axes(ax, 7.6, 5.4)
        scale = make_scale(summary, chosen)
        _draw_panel(axes, summary, scale)
        axes.legend(frameon=False, fontsize=10)
        if (figure := axes.get_figure(root=True)) is not None:
            figure.draw_without_rendering()
        _write_labels(axes, summary, scale)
    return axes


def _make_figure(summary: RunSummary) -> Figure:
    scales = [make_scale(summary, quantity) for quantity in _quantities(summary)]
    figure = quiet_figure(12.4 if len(scales) > 1 else 7.6, 5.4)
    figure.set_layout_engine("constrained")
    figure.suptitle(_title(summary), x=0.012, ha="left", fontsize=13, color=INK)
    panels = figure.subplots(1, len(scales), squeeze=False)[0]
    for axes, scale in zip(panels, scales, strict=True):
        _draw_panel(axes, summary, scale)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=max(len(labels), 1), frameon=False, fontsize=10)
    # Only when the layout has settled is it known what a label would cover.
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    for axes, scale in zip(panels, scales, strict=True):
        _write_labels(axes, summary, scale)
    return figure


def _quantities(summary: RunSummary) -> tuple[Quantity, ...]:
    return ("loss", "metric") if summary.has_labels else ("loss",)


def _title(summary: RunSummary) -> str:
    count = len(summary.points)
    tried = f"{count} recipe{'' if count == 1 else 's'} tried"
    return f"{summary.model} on {summary.data}: {tried}{', interrupted' if summary.interrupted else ''}"


def _draw_panel(axes: Axes, summary: RunSummary, scale: Scale) -> None:
    _dress(axes, summary, scale)
    others = [point for point in summary.points if not point.on_front and not point.is_uniform]
    if drawn := _coordinates(others, scale):
        axes.scatter(*drawn, s=12, color=SOFT, alpha=0.3, linewidths=0, label="other trials")
    shown = [point for point in summary.front if scale.quantity == "loss" or not scale.is_below(point)]
    if drawn := _coordinates(shown, scale):
        axes.plot(*(_stairs(*drawn) if scale.quantity == "loss" else drawn), color=BLUE, linewidth=1.3, zorder=3)
    for points, marker, color, size, label in (
        (summary.front, "o", BLUE, 42, "Pareto front"),
        (summary.uniform, "D", VERMILION, 48, "uniform bits"),
    ):
        if drawn := _coordinates([point for point in points if not scale.is_below(point)], scale):
            axes.scatter(*drawn, s=size, marker=marker, color=color, edgecolor="white", zorder=5, label=label)
        if drawn := _coordinates([point for point in points if scale.is_below(point)], scale):
            axes.scatter(*drawn, s=size, marker="v", color=color, edgecolor="white", zorder=5)
    if summary.best and (drawn := _coordinates([summary.best], scale)):
        axes.scatter(*drawn, s=270, marker="*", color=YELLOW, edgecolor=INK, zorder=6, label="chosen recipe")
    draw_published(axes, summary, scale)
    draw_improved(axes, summary, scale)
    if not _coordinates(summary.compared, scale):
        axes.text(
            0.5,
            0.5,
            "no trial has completed yet",
            transform=axes.transAxes,
            ha="center",
            color=SOFT,
            backgroundcolor="white",
        )


def _coordinates(points: list[Point] | tuple[Point, ...], scale: Scale) -> tuple[list[int], list[float]] | None:
    """Return costs and heights of the points that were measured; None if there is none."""
    drawn = [(point.cost, height) for point in points if (height := scale.height(point)) is not None]
    return ([x for x, _ in drawn], [y for _, y in drawn]) if drawn else None


def _stairs(x: list[int], y: list[float]) -> tuple[list[int], list[float]]:
    """Return the steps of the front: a recipe answers every budget above its own cost."""
    return [x[0], *(value for value in x[1:] for _ in range(2))], [
        *(value for value in y[:-1] for _ in range(2)),
        y[-1],
    ]


def _dress(axes: Axes, summary: RunSummary, scale: Scale) -> None:
    """Set limits, ticks and grid, and draw the budget and full precision as lines."""
    costs = [point.cost for point in summary.compared]
    costs += [summary.budget] if summary.budget is not None else [] if costs else [1]
    factor, prefix = prefix_for(max(costs))
    _set_limits(axes, "x", min(costs), max(costs), log=is_wide(costs))
    _tick(axes.xaxis, min(costs), max(costs), log=is_wide(costs), factor=factor)
    unit = prefix if summary.kind == BOPS else f"{prefix}{summary.kind.unit}"
    axes.set_xlabel(f"{summary.kind.axis} ({unit})" if unit else summary.kind.axis, fontsize=10.5)
    _set_limits(axes, "y", scale.low, scale.high, log=scale.log)
    _tick(axes.yaxis, scale.low, scale.high, log=scale.log, factor=1.0)
    zero = " (0 at the bottom)" if scale.log and any(scale.is_below(point) for point in summary.compared) else ""
    images = f"mean over {summary.images} calibration images"
    if summary.scoring_images:
        images = f"mean over {summary.scoring_images} images that did not calibrate"
    if scale.quantity == "metric":
        images = f"on {summary.eval_images} labelled images" if summary.eval_images else "on labelled images"
    name = f"{summary.loss.axis_label}{zero}" if scale.quantity == "loss" else summary.metric.axis_label
    axes.set_ylabel(f"{name}\n{images}", fontsize=10.5, labelpad=6)
    axes.set_title(" ", fontsize=16)  # keeps the title of the figure off the label of the budget
    axes.grid(visible=True, which="major", color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(colors=INK, labelsize=10)
    axes.spines[["top", "right"]].set_visible(False)
    if summary.budget is not None:
        axes.axvspan(summary.budget, axes.get_xlim()[1], color="#f4f4f6", zorder=0)
        axes.axvline(summary.budget, color=INK, linewidth=1.2, linestyle=(0, (5, 3)), zorder=2)
    full = summary.full_precision_metric
    if scale.quantity == "metric" and full is not None:
        axes.axhline(full, color=SOFT, linewidth=1.2, linestyle=(0, (1, 1.5)), zorder=2)


def _set_limits(axes: Axes, name: str, low: float, high: float, *, log: bool) -> None:
    """Set limits with a margin around the values, never empty."""
    if log:
        ratio = max((high / low) ** 0.07, 1.6 if high < 2 * low else 1.0)
        axes.set(**{f"{name}scale": "log", f"{name}lim": (low / ratio, high * ratio)})
    else:
        air = 0.07 * (high - low) or 0.1 * abs(high) or 1.0
        axes.set(**{f"{name}lim": (low - air, high + air)})


def _tick(axis: Axis, low: float, high: float, *, log: bool, factor: float) -> None:
    """Set ticks at 1, 2 and 5 on short logarithmic axes, written without exponents."""
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

    if log:
        axis.set_major_locator(LogLocator(base=10, subs=(1, 2, 5) if high < 3000 * low else (1,), numticks=20))
        axis.set_minor_locator(NullLocator())
    else:
        axis.set_major_locator(MaxNLocator(nbins=7))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value / factor:g}"))


def _write_budget(axes: Axes, summary: RunSummary, budget: int, scale: Scale) -> None:
    asked = f" ({summary.budget_text})" if readable_budget(summary.budget_text) else ""
    place = axes.transAxes.inverted().transform(axes.transData.transform((budget, scale.high)))[0]
    axes.annotate(
        f"budget {summary.kind.format(budget)}{asked}",
        (budget, 1.0),
        xycoords=axes.get_xaxis_transform(),
        xytext=(0, 4),
        textcoords="offset points",
        ha="left" if place < 0.2 else "right" if place > 0.8 else "center",
        fontsize=10,
        color=INK,
    )


def _write_labels(axes: Axes, summary: RunSummary, scale: Scale) -> None:
    """Write the labels on a panel: budget, full precision, the chosen recipe, the uniform points."""
    if summary.budget is not None:
        _write_budget(axes, summary, summary.budget, scale)
    taken = _covered(axes, summary, scale)
    full = summary.full_precision_metric
    if scale.quantity == "metric" and full is not None:
        text = f"full precision {summary.metric.format(full)}"
        line = axes.annotate(
            text,
            (0.01, full),
            xycoords=axes.get_yaxis_transform(),
            xytext=(0, 3),
            textcoords="offset points",
            color=SOFT,
            path_effects=halo(),
        )
        taken.append(line.get_window_extent())
    if summary.best and scale.height(summary.best) is not None:
        _write_note(axes, f"★ {note(summary, summary.best, scale.quantity)}", taken)
    others = [(point.cost, height) for point in _named(summary) if (height := scale.height(point)) is not None]
    for point in _named(summary):
        if (height := scale.height(point)) is not None:
            value = scale.value(point) if scale.is_below(point) and scale.quantity == "metric" else None
            below = "" if value is None else f"\n{summary.metric.format(value)}"
            color = PURPLE if point.is_published else VERMILION
            place_label(axes, point.label + below, point.cost, height, taken, color, others)


def _named(summary: RunSummary) -> list[Point]:
    """Return the points that have labels: uniform ones in one group (there are too many others) and published ones."""
    return [*(point for point in summary.uniform if " " not in point.label), *summary.published]


def _covered(axes: Axes, summary: RunSummary, scale: Scale) -> list[Bbox]:
    """Return the boxes that labels should not cover: markers and the line of the front."""
    boxes = [
        box_around(axes, point.cost, height)
        for point in summary.points
        if (point.on_front or point.is_uniform) and (height := scale.height(point)) is not None
    ]
    boxes += published_boxes(axes, summary, scale) + improved_boxes(axes, summary, scale)
    for line in axes.get_lines():
        if line.get_linestyle() == "-":
            corners = axes.transData.transform(line.get_path().vertices)
            boxes += [box for start, end in pairwise(corners) for box in boxes_between(tuple(start), tuple(end))]
    return boxes


def _write_note(axes: Axes, text: str, taken: list[Bbox]) -> None:
    """Explain the chosen recipe, by its marker, in the corner that covers least; the corner is then taken too."""
    written = axes.text(
        0,
        0,
        text,
        transform=axes.transAxes,
        fontsize=10,
        linespacing=1.4,
        color=INK,
        zorder=8,
        bbox={"boxstyle": "round,pad=0.45", "facecolor": "white", "edgecolor": INK, "linewidth": 0.8},
    )
    tried: list[tuple[int, int]] = []
    for index, (across, up) in enumerate(_CORNERS):
        tried.append((count_covered(_put(written, across, up), corners_of(taken)), index))
    taken.append(_put(written, *_CORNERS[min(tried)[1]]))


def _put(written: Text, across: float, up: float) -> Bbox:
    """Move a note into a corner, in fractions of the panel; return the box that it covers there."""
    written.set(position=(across, up), ha="left" if across < 0.5 else "right", va="bottom" if up < 0.5 else "top")
    return written.get_window_extent().padded(10)
