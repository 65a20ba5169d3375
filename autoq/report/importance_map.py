"""The picture of importance: one row an output of a block, how unevenly it is spread over tokens and channels."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING, Any

from autoq.report.figures import quiet_figure, save_figure
from autoq.report.importance_panels import (
    MOST_NAMED_CLASSES,
    color_scale,
    colors_of_maps,
    draw_classes,
    draw_profile,
    draw_ranges,
    draw_scale,
    draw_tokens,
    profile_limits,
    relative,
)
from autoq.report.plots import INK, SOFT
from autoq.report.text import fill_lines, literal_text
from autoq.sensitivity.block_importance import OutputImportance
from autoq.sensitivity.importance_files import Importance

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap, LogNorm
    from matplotlib.figure import Figure

_ROW, _PANEL, _TOP, _BEFORE_CLASSES = 0.86, 0.66, 1.58, 0.3
"""Inches: a row, a panel in it, the words above, more room before the classes for the axis of the profiles."""
_BOTTOM, _CLASS_NAMES, _NOTE, _MARGIN = 0.52, 0.2, 0.18, 0.12
"""Inches: axes below, more for names of classes, a line of notes, the margin of text."""
_RANGES, _MAP, _PROFILE, _SHARE, _SIDE = 2.1, 1.5, 2.35, 1.3, 0.95
"""Inches from column to column; the colour bar is on the right."""
_GAP = 0.3
"""Inches of a column that stay empty."""
_TOKEN = 0.15
"""Inches: a token before the grid."""
_FEWEST_ELEMENTS = 100
"""Of an output, for 1 % of them to be one or more."""
_LETTER, _SMALL_LETTER, _MOST_LETTERS = 0.072, 0.058, 40
"""Inches a letter of a name, and of the words under it; longer names are written smaller."""


@dataclass(frozen=True)
class _Page:
    """A figure measured in inches from its upper left corner."""

    figure: Figure
    width: float
    height: float

    def axes(self, left: float, top: float, width: float, height: float) -> Axes:
        box = (left / self.width, 1 - (top + height) / self.height, width / self.width, height / self.height)
        return self.figure.add_axes(box)

    def text(self, left: float, top: float, words: str, size: float, color: str = INK, **options: Any) -> None:
        self.figure.text(left / self.width, 1 - top / self.height, words, fontsize=size, color=color, **options)


def draw_importance(
    importance: Importance,
    path: str | os.PathLike[str],
    title: str = "How much errors of each block's output matter",
    label_names: Sequence[str] | None = None,
) -> None:
    """Draw importance to a file.

    Args:
        importance: what was measured.
        path: where to.
        title: above the picture.
        label_names: names of the model's classes, if they are known.
    """
    with literal_text():
        figure = _make_figure(importance, title, label_names)
        save_figure(figure, path)


def _make_figure(importance: Importance, title: str, label_names: Sequence[str] | None) -> Figure:
    outputs, notes = importance.outputs, _notes(importance)
    columns = list(accumulate((_RANGES, _MAP, _PROFILE, _SHARE), initial=_width_of_names(outputs)))
    tops = [_TOP + line * _ROW + (_BEFORE_CLASSES if _is_classes(each) else 0) for line, each in enumerate(outputs)]
    end = tops[-1] + _ROW if tops else _TOP + _ROW
    named = any(_is_classes(each) and len(each.by_channel) <= MOST_NAMED_CLASSES for each in outputs)
    width = columns[-1] + _SIDE
    height = end + _BOTTOM + (_CLASS_NAMES if named and label_names else 0) + _NOTE * len(notes)
    page = _Page(quiet_figure(width, height), width, height)
    _write_head(page, importance, title, columns)
    for number, note in enumerate(notes):
        page.text(_MARGIN, height - _MARGIN - _NOTE * (len(notes) - 1 - number), note, 7.5, SOFT)
    if outputs:
        _draw_outputs(page, outputs, label_names, columns, tops, end)
    else:
        page.text(_MARGIN, _TOP + _ROW / 2, "nothing has been measured", 9, SOFT)
    return page.figure


def _draw_outputs(
    page: _Page,
    outputs: Sequence[OutputImportance],
    label_names: Sequence[str] | None,
    columns: Sequence[float],
    tops: Sequence[float],
    end: float,
) -> None:
    """Draw a row for each output, the ranges along all of them, and the colour bar.

    Args:
        page: where to.
        outputs: at least one.
        label_names: names of the model's classes, if they are known.
        columns: left edges of ranges, map, profile, share and colour bar, in inches.
        tops: upper edges of the rows, in inches.
        end: lower edge of the last row, in inches.
    """
    norm, limits, colors = color_scale(outputs), profile_limits(outputs), colors_of_maps()
    before = (_TOKEN + 0.1) if any(each.extra_tokens for each in outputs) else 0.0
    profiles = [each for each in outputs if not _is_classes(each)]
    for row, output in zip(tops, outputs, strict=True):
        top = row + (_ROW - _PANEL) / 2
        _write_name(page, output, top + _PANEL / 2)
        if len(output.by_position) > 1:
            _draw_map(page, output, columns[1], top, before, norm, colors)
        panel = page.axes(columns[2], top, _PROFILE - _GAP, _PANEL)
        if _is_classes(output):
            fits = label_names is not None and len(label_names) == len(output.by_channel)
            draw_classes(panel, output, label_names if fits else None)
        else:
            draw_profile(panel, output, limits, named=output is profiles[-1])
        share = f"{100 * output.summary.top_share:.0f} %" if output.hessian.numel() >= _FEWEST_ELEMENTS else "–"
        page.text(columns[3], top + _PANEL / 2, share, 9.5, va="center")
    ranges = page.axes(columns[0], _TOP, _RANGES - _GAP, end - _TOP)
    ranges.set(ylim=(end, _TOP))
    draw_ranges(ranges, outputs, [row + _ROW / 2 for row in tops])
    if any(len(each.by_position) > 1 for each in outputs):
        draw_scale(page.figure, page.axes(columns[4], _TOP, 0.15, min(end - _TOP, 4.2)), norm, colors)


def _is_classes(output: OutputImportance) -> bool:
    return output.is_logits and len(output.by_position) == 1


def _width_of_names(outputs: Sequence[OutputImportance]) -> float:
    names = max((len(each.name) for each in outputs), default=0)
    small = max((len(_shape_in_words(each)) for each in outputs), default=0)
    return 2 * _MARGIN + max(_LETTER * min(names, _MOST_LETTERS), _SMALL_LETTER * small, 1.2)


def _write_head(page: _Page, importance: Importance, title: str, columns: Sequence[float]) -> None:
    """Write the title, what is drawn, and a heading for each column."""
    page.text(_MARGIN, 0.13, title, 12, va="top")
    images = f"{importance.images} image{'' if importance.images == 1 else 's'}"
    about = (
        f"H is the average perturbation Hessian over {images}: half the sum of error² × H over all elements estimates "
        "by how many nats\n(KL divergence) the predictions move away from full precision."
    )
    page.text(_MARGIN, 0.4, about, 8.5, SOFT, va="top", linespacing=1.3)
    headings = (
        ("How important", "mean (dot) and middle\n98 % of elements (line)"),
        ("Where", "each token,\nmean over channels"),
        ("Which channels", "mean over tokens,\nthe most important first"),
        ("Top 1 %", "of elements: their\nshare of the sum"),
    )
    for left, (first, rest) in zip(columns[:4], headings, strict=True):
        page.text(left, 0.92, first, 9, weight="bold", va="top")
        page.text(left, 1.1, rest, 8, SOFT, va="top", linespacing=1.2)


def _write_name(page: _Page, output: OutputImportance, middle: float) -> None:
    size = 9 * min(1.0, _MOST_LETTERS / len(output.name))
    page.text(_MARGIN, middle - 0.03, output.name, size, va="bottom")
    page.text(_MARGIN, middle + 0.03, _shape_in_words(output), 7.5, SOFT, va="top")


def _shape_in_words(output: OutputImportance) -> str:
    positions = len(output.by_position)
    what = f"{len(output.by_channel)} {'classes' if output.is_logits else 'channels'}"
    if positions == 1:
        return what
    if output.grid is None:
        return f"{positions} tokens, {what}"
    extra = f"{output.extra_tokens} + " if output.extra_tokens else ""
    return f"{extra}{output.grid[0]}×{output.grid[1]} tokens, {what}"


def _draw_map(
    page: _Page, output: OutputImportance, left: float, top: float, before: float, norm: LogNorm, colors: Colormap
) -> None:
    """Draw the grid of image tokens, other tokens left of it; tokens without a grid as a strip."""
    values, extra = relative(output.by_position), output.extra_tokens
    side = min(_TOKEN, _PANEL / max(extra, 1) - 0.02)
    for number in range(extra):
        draw_tokens(
            page.axes(left, top + number * (side + 0.02), side, side), values[number].reshape(1, 1), norm, colors
        )
    room = _MAP - _GAP - before
    rows, across = output.grid or (1, len(values))
    scale = min(_PANEL / rows, room / across)
    wide, high = (room, 0.2) if output.grid is None else (across * scale, rows * scale)
    axes = page.axes(left + before, top + (_PANEL - high) / 2, wide, high)
    draw_tokens(axes, values[extra:].reshape(rows, across), norm, colors)


def _notes(importance: Importance) -> list[str]:
    """Return the lines below the figure, which explain the marks that occur."""
    outputs = importance.outputs
    notes = ["×: times the mean of the block; an even spread would have 1× (the thin line) everywhere."]
    if any(output.extra_tokens for output in outputs):
        notes.append("The cell left of a map: the class token (or others that are no part of the image).")
    if any((output.by_position <= 0).any() for output in outputs if len(output.by_position) > 1):
        notes.append("Grey: no influence on the predictions.")
    direction = "random signs" if importance.settings.direction == "signs" else "ones"
    notes.append(f"Perturbed by {direction}, logits divided by {importance.settings.temperature:g}.")
    return fill_lines(notes, 130)
