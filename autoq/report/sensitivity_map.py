"""The picture of a table of sensitivities: one row an operand, one column a bit-width, colour the loss."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from autoq.quantizers import SchemeLabel, quantizer_class
from autoq.recipe import OperandConfig
from autoq.report.figures import new_figure, quiet_figure, save_figure
from autoq.report.plots import INK, SOFT, VERMILION
from autoq.report.text import fill_lines, literal_text, power_of_ten
from autoq.sensitivity.proxies import LOSS_NAMES
from autoq.sensitivity.table import SensitivityTable

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap, LogNorm
    from matplotlib.figure import Figure

_ABSENT, _ZERO = "#eceef0", "#fff9d6"
_ROW, _COLUMN, _SIDE, _TOP, _BOTTOM, _NOTE = 0.175, 0.52, 1.15, 0.95, 0.6, 0.17
"""Inches: a row, a column, the colour bar on the right, the words above, the axis below, a line of notes."""
_LETTER, _MOST_LETTERS = 0.061, 48
"""Inches a letter of a row's name; longer names are written smaller."""


@dataclass(frozen=True)
class Cell:
    """The least loss of one operand at one bit-width.

    Attributes:
        loss: as in the table.
        config: the configuration that has it.
        measured: False where it is interpolated.
    """

    loss: float
    config: OperandConfig
    measured: bool

    @property
    def label(self) -> SchemeLabel:
        """The mark of the configuration in a cell, and its explanation."""
        return quantizer_class(self.config.scheme).label(self.config)


def draw_sensitivity(
    table: SensitivityTable,
    operands: Sequence[tuple[str, str]],
    path: str | os.PathLike[str],
    title: str = "Sensitivity of each operand, quantized alone",
) -> None:
    """Draw a table to a file, whose suffix says the format.

    Args:
        table: the losses.
        operands: (site, operand) from the top down; those without a row in ``table`` are left out.
        path: where to.
        title: above the picture.
    """
    import matplotlib as mpl

    with literal_text(), mpl.rc_context({"hatch.linewidth": 0.6}):
        save_figure(_make_figure(table, operands, title, quiet_figure), path)


def plot_sensitivity(
    table: SensitivityTable,
    operands: Sequence[tuple[str, str]],
    title: str = "Sensitivity of each operand, quantized alone",
) -> Axes:
    """Draw a table on a figure of its own, as large as it needs, which notebooks show; arguments as above.

    Returns:
        The axes of the cells.
    """
    import matplotlib as mpl

    with literal_text(), mpl.rc_context({"hatch.linewidth": 0.6}):
        return _make_figure(table, operands, title, new_figure).axes[0]


def best_cells(table: SensitivityTable) -> dict[tuple[str, str], dict[int, Cell]]:
    """Choose, for each operand and bit-width, the option that loses least; of equals the plainest."""
    cells: dict[tuple[str, str], dict[int, Cell]] = {}
    for row in table.rows:
        mine = cells.setdefault((row.site, row.operand), {})
        other = mine.get(row.config.bits)
        cell = Cell(row.loss, row.config, row.measured)
        if other is None or _rank(cell) < _rank(other):
            mine[row.config.bits] = cell
    return cells


def _rank(cell: Cell) -> tuple[float, int, int, bool]:
    return cell.loss, cell.config.groups, cell.config.hadamard_block, bool(cell.label.mark)


def _make_figure(
    table: SensitivityTable,
    operands: Sequence[tuple[str, str]],
    title: str,
    make: Callable[[float, float], Figure],
) -> Figure:
    cells = best_cells(table)
    rows = [operand for operand in dict.fromkeys(operands) if operand in cells]
    bits = sorted({width for operand in rows for width in cells[operand]})
    notes = _notes(cells, rows)
    labels = 0.3 + _LETTER * min(max(map(len, _row_names(rows)), default=0), _MOST_LETTERS)
    width = labels + max(len(bits), 5) * _COLUMN + _SIDE
    body = max(len(rows), 6) * _ROW
    bottom = _BOTTOM + _NOTE * len(notes)
    height = _TOP + body + bottom
    figure = make(width, height)
    axes = figure.add_axes((labels / width, bottom / height, 1 - (labels + _SIDE) / width, body / height))
    figure.text(0.12 / width, 1 - 0.13 / height, title, fontsize=11.5, color=INK, va="top")
    images = f"the best scheme of each width; mean over {table.images} image{'' if table.images == 1 else 's'}"
    figure.text(0.12 / width, 1 - 0.38 / height, images, fontsize=8.5, color=SOFT, va="top")
    if not rows:
        axes.set_axis_off()
        axes.text(0.5, 0.5, "nothing has been measured yet", transform=axes.transAxes, ha="center", color=SOFT)
        return figure
    norm, colors = _scale(cells, rows), _colors()
    for line, operand in enumerate(rows):
        for column, width_ in enumerate(bits):
            _draw_cell(axes, line, column, cells[operand].get(width_), norm, colors)
    _dress(axes, rows, bits)
    _draw_scale(figure, table.proxy, norm, colors, (width, height, bottom, body))
    for number, note in enumerate(notes):
        figure.text(0.12 / width, (0.12 + _NOTE * (len(notes) - 1 - number)) / height, note, fontsize=7.5, color=SOFT)
    return figure


def _colors() -> Colormap:
    """Return the colour map: dark is sensitive; lightness changes in even steps, legible with any colour vision."""
    import matplotlib as mpl

    return mpl.colormaps["viridis_r"]


def _scale(cells: dict[tuple[str, str], dict[int, Cell]], rows: Sequence[tuple[str, str]]) -> LogNorm:
    """Return the colour scale, from the least positive loss to the largest finite one."""
    from matplotlib.colors import LogNorm

    losses = [cell.loss for operand in rows for cell in cells[operand].values()]
    positive = [loss for loss in losses if 0 < loss < math.inf]
    low, high = (min(positive), max(positive)) if positive else (0.1, 1.0)
    return LogNorm(low, high if high > low else 10 * low, clip=True)


def _draw_cell(axes: Axes, line: int, column: int, cell: Cell | None, norm: LogNorm, colors: Colormap) -> None:
    from matplotlib.patches import Rectangle

    if cell is None:
        axes.add_patch(Rectangle((column, line), 1, 1, facecolor=_ABSENT, edgecolor="white", linewidth=0.5))
        return
    face, ink = _face(cell.loss, norm, colors)
    axes.add_patch(Rectangle((column, line), 1, 1, facecolor=face, edgecolor="white", linewidth=0.5))
    if not cell.measured:
        hatching = Rectangle(
            (column, line), 1, 1, facecolor="none", edgecolor=ink, hatch="////", linewidth=0, alpha=0.5
        )
        axes.add_patch(hatching)
    mark = "∞" if math.isinf(cell.loss) else cell.label.mark
    if mark:
        axes.text(
            column + 0.5,
            line + 0.53,
            mark,
            ha="center",
            va="center",
            fontsize=7 if len(mark) <= 5 else 5,
            color=ink,
            clip_on=True,
        )


def _face(loss: float, norm: LogNorm, colors: Colormap) -> tuple[Any, str]:
    """Return the colours of a cell and of the text in it."""
    if math.isinf(loss):
        return VERMILION, "white"
    if loss <= 0:
        return _ZERO, INK
    red, green, blue, _ = face = colors(float(norm(loss)))
    return face, "white" if 0.299 * red + 0.587 * green + 0.114 * blue < 0.55 else INK


def _dress(axes: Axes, rows: Sequence[tuple[str, str]], bits: Sequence[int]) -> None:
    """Set limits, names and bit-widths, and separate the sites."""
    axes.set(xlim=(0, len(bits)), ylim=(len(rows), 0))
    axes.set_xticks([column + 0.5 for column in range(len(bits))], [str(width) for width in bits])
    axes.tick_params(
        axis="x", length=0, labelsize=9, colors=INK, top=True, labeltop=True, bottom=True, labelbottom=True
    )
    axes.set_xlabel("bits", fontsize=9, color=INK)
    names = _row_names(rows)
    axes.set_yticks([line + 0.5 for line in range(len(rows))], names)
    smaller = min(1.0, _MOST_LETTERS / max(map(len, names)))
    axes.tick_params(axis="y", length=0, labelsize=7.5 * smaller, colors=INK, pad=3)
    for line in range(1, len(rows)):
        if rows[line][0] != rows[line - 1][0]:
            axes.axhline(line, color="white", linewidth=2)
    axes.spines[:].set_visible(False)


def _row_names(rows: Sequence[tuple[str, str]]) -> list[str]:
    """Return ``site:operand`` for a site's first operand, and the names alone of its others."""
    return [
        operand if line and rows[line - 1][0] == site else f"{site}:{operand}"
        for line, (site, operand) in enumerate(rows)
    ]


def _draw_scale(
    figure: Figure, proxy: str, norm: LogNorm, colors: Colormap, place: tuple[float, float, float, float]
) -> None:
    from matplotlib.cm import ScalarMappable
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    width, height, bottom, body = place
    long = min(body, 4.2)
    beside = figure.add_axes((1 - (_SIDE - 0.2) / width, (bottom + body - long) / height, 0.16 / width, long / height))
    bar = figure.colorbar(ScalarMappable(norm, colors), cax=beside)
    decades = math.log10(norm.vmax or 1.0) - math.log10(norm.vmin or 1.0)
    bar.locator = LogLocator(subs=(1, 2, 5) if decades < 2.5 else (1,), numticks=20)
    bar.formatter = FuncFormatter(lambda value, _: power_of_ten(value) if decades >= 2.5 else f"{value:g}")
    bar.update_ticks()
    beside.yaxis.set_minor_formatter(NullFormatter())
    bar.set_label(LOSS_NAMES.get(proxy, proxy), fontsize=8.5, color=INK)
    bar.outline.set_visible(False)
    beside.tick_params(labelsize=8, colors=INK)


def _notes(cells: dict[tuple[str, str], dict[int, Cell]], rows: Sequence[tuple[str, str]]) -> list[str]:
    """Return the lines that explain the marks that occur in the cells."""
    shown = [cell for operand in rows for cell in cells[operand].values()]
    labels = sorted({cell.label for cell in shown if not math.isinf(cell.loss)}, key=lambda label: label.mark)
    if not any(label.mark for label in labels):
        labels = []  # without marks there is nothing to explain
    notes = list(dict.fromkeys(label.note for label in labels if label.note))
    if any(not cell.measured for cell in shown):
        notes.append("Hatched: interpolated.")
    if any(cell.loss <= 0 for cell in shown):
        notes.append("Pale: no loss.")
    if any(math.isinf(cell.loss) for cell in shown):
        notes.append("∞: the output is not finite.")
    return fill_lines(notes, 84)
