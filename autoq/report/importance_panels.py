"""The panels of the picture of importance: ranges, maps of tokens, profiles of channels, bars of classes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from autoq.report.plots import BLUE, GRID, INK, SOFT
from autoq.report.text import power_of_ten
from autoq.sensitivity.block_importance import OutputImportance

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap, LogNorm

NO_INFLUENCE = "#eceef0"
"""Colour of zero, which has none on a logarithmic scale."""
MOST_NAMED_CLASSES = 20
"""Classes of a model with more are not named."""
_LIMIT = 1e3
"""What is more than so many times above or below the mean is drawn at the edge."""


def relative(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Divide by the mean; zeros if all values are zero."""
    mean = float(values.mean())
    return values / mean if mean > 0 else np.zeros_like(values)


def color_scale(outputs: Sequence[OutputImportance]) -> LogNorm:
    """Return the colour scale of all maps; it spans a factor of two on each side of the mean at least."""
    from matplotlib.colors import LogNorm

    return LogNorm(*_extent([relative(each.by_position) for each in outputs if not each.is_logits]), clip=True)


def colors_of_maps() -> Colormap:
    """Return the colour map: dark is important, as in the map of sensitivities."""
    import matplotlib as mpl

    return mpl.colormaps["viridis_r"].with_extremes(bad=NO_INFLUENCE)


def profile_limits(outputs: Sequence[OutputImportance]) -> tuple[float, float]:
    """Return the limits of the axis that all profiles share."""
    low, high = _extent([relative(each.by_channel) for each in outputs if not each.is_logits])
    return low / 1.3, high * 1.3


def _extent(values: Sequence[npt.NDArray[np.float64]]) -> tuple[float, float]:
    positive = np.concatenate([np.ones(1), *(each[each > 0] for each in values)])
    return max(min(float(positive.min()), 0.5), 1 / _LIMIT), min(max(float(positive.max()), 2.0), _LIMIT)


def draw_tokens(axes: Axes, values: npt.NDArray[np.float64], norm: LogNorm, colors: Colormap) -> None:
    """Draw the relative importance of tokens, of shape (rows, columns), as cells."""
    shown = np.ma.masked_less_equal(values, 0)
    axes.imshow(shown, norm=norm, cmap=colors, interpolation="nearest", aspect="auto")
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set(color=SOFT, linewidth=0.5)


def draw_profile(axes: Axes, output: OutputImportance, limits: tuple[float, float], named: bool) -> None:
    """Draw channels from the most to the least important; ``named`` says whether the axis below is labelled."""
    values = np.clip(np.sort(relative(output.by_channel))[::-1], *limits)
    place = (np.arange(len(values)) + 0.5) / len(values) * 100
    axes.set_yscale("log")
    axes.set(ylim=limits, xlim=(0, 100))
    axes.axhline(1, color=SOFT, linewidth=0.6)
    axes.fill_between(place, 1, values, color=BLUE, alpha=0.18, linewidth=0)
    axes.plot(place, values, color=BLUE, linewidth=1.2)
    axes.set_xticks((0, 25, 50, 75, 100), ("0", "25", "50", "75", "100") if named else [""] * 5)
    if named:
        axes.set_xlabel("% of the channels", fontsize=8, color=INK, labelpad=1)
    wide = limits[1] / limits[0] > 30
    ticks = [10.0**power for power in range(-3, 4)] if wide else [0.2, 0.5, 1.0, 2.0, 5.0]
    ticks = [tick for tick in ticks if limits[0] <= tick <= limits[1]]
    axes.set_yticks(ticks, [f"{tick:g}×" for tick in ticks])
    axes.set_yticks([], minor=True)
    _dress(axes)


def draw_classes(axes: Axes, output: OutputImportance, label_names: Sequence[str] | None) -> None:
    """Draw a bar for each class."""
    values = relative(output.by_channel)
    count = len(values)
    axes.bar(np.arange(count), values, width=0.8 if count <= 5 * MOST_NAMED_CLASSES else 1, color=BLUE, alpha=0.6)
    axes.axhline(1, color=SOFT, linewidth=0.6)
    axes.set(xlim=(-0.6, count - 0.4), ylim=(0, min(max(1.25, 1.1 * float(values.max())), _LIMIT)), xticks=[])
    axes.set_yticks([0, 1], ["0×", "1×"])
    if count <= MOST_NAMED_CLASSES:
        axes.set_xticks(range(count), label_names or [str(index) for index in range(count)])
    _dress(axes)
    turned = 90 if label_names and max(map(len, label_names)) > 2 else 0
    axes.tick_params(axis="x", length=0, labelsize=6.5, rotation=turned, pad=2)
    if count > MOST_NAMED_CLASSES:
        axes.set_xlabel("classes, in their order", fontsize=8, color=INK, labelpad=2)


def draw_ranges(axes: Axes, outputs: Sequence[OutputImportance], places: Sequence[float]) -> None:
    """Draw the mean and middle 98 % of the elements of each output, at ``places`` along the axis that points down."""
    from matplotlib.ticker import FuncFormatter, LogLocator

    numbers = [output.summary for output in outputs]
    # Where many elements are zero the line begins at the edge; it shall not have the scale reach far below the means.
    means = [each.mean for each in numbers if each.mean > 0]
    ends = [value for each in numbers for value in (each.low, each.high) if value > min(means, default=0) / 30]
    low, high = (min(means + ends) / 2, max(means + ends) * 2) if means else (0.1, 10.0)
    axes.set_xscale("log")
    axes.set(xlim=(low, high), yticks=[])
    axes.grid(axis="x", color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    for place, each in zip(places, numbers, strict=True):
        if each.mean > 0:
            axes.plot([max(each.low, low), each.high], [place] * 2, color=BLUE, alpha=0.45, linewidth=2.5)
            axes.plot([each.mean], [place], "o", color=BLUE, markersize=5)
    axes.xaxis.set_major_locator(LogLocator(numticks=6))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: power_of_ten(value)))
    axes.set_xlabel("H (nats per squared unit)", fontsize=8, color=INK, labelpad=1)
    _dress(axes)
    axes.minorticks_off()
    axes.spines["left"].set_visible(False)


def _dress(axes: Axes) -> None:
    axes.tick_params(axis="x", length=2, labelsize=7.5, colors=INK)
    axes.tick_params(axis="y", length=2, labelsize=7, colors=INK, pad=1)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set(color=SOFT, linewidth=0.6)


def draw_scale(figure: Any, axes: Axes, norm: LogNorm, colors: Colormap) -> None:
    """Draw the colour bar of the maps."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    bar = figure.colorbar(ScalarMappable(norm, colors), cax=axes)
    bar.locator = LogLocator(subs=(1, 2, 5), numticks=20)
    bar.formatter = FuncFormatter(lambda value, _: f"{value:g}×")
    bar.update_ticks()
    axes.yaxis.set_minor_formatter(NullFormatter())
    bar.set_label("a token's importance, times the mean of its block", fontsize=8, color=INK)
    bar.outline.set_visible(False)
    axes.tick_params(labelsize=7.5, colors=INK)
