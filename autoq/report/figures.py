"""Figures written to files and shown in notebooks."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from autoq.errors import InputError
from autoq.files import atomic_path

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DPI = 200
"""Of pictures made of pixels."""
FORMATS = ("png", "svg", "pdf")
"""Suffixes of pictures."""


def save_figure(figure: Figure, path: str | os.PathLike[str]) -> None:
    """Write a figure, atomically, in the format that its path ends in.

    Raises:
        InputError: that is none of ``FORMATS``.
    """
    suffix = Path(path).suffix.removeprefix(".").lower()
    if suffix not in FORMATS:
        raise InputError(f"cannot draw {os.fspath(path)!r}: pictures are {', '.join(FORMATS)}, by their suffix")
    with atomic_path(path) as temporary:
        # Without a date in it, the same figure is the same file.
        metadata = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}.get(suffix)
        figure.savefig(temporary, dpi=DPI, format=suffix, metadata=metadata)


def picture_path(folder: str | os.PathLike[str], name: str, picture_format: str) -> Path:
    """Return where a picture goes, before there is anything to draw.

    >>> picture_path("runs", "pareto", "svg").as_posix()
    'runs/pareto.svg'

    Raises:
        InputError: the format is none of ``FORMATS``.
    """
    if picture_format not in FORMATS:
        raise InputError(f"unknown format {picture_format!r} of pictures; there are {', '.join(FORMATS)}")
    return Path(folder) / f"{name}.{picture_format}"


def quiet_figure(width: float, height: float) -> Figure:
    """Make a figure of some inches to write to a file; pyplot does not know it."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def new_axes(ax: Axes | None, width: float, height: float) -> Axes:
    """Return ``ax``, or the axes of a new figure of some inches, which notebooks show."""
    if ax is not None:
        return ax
    figure = new_figure(width, height)
    figure.set_layout_engine("constrained")
    return figure.subplots()


def new_figure(width: float, height: float) -> Figure:
    """Make a figure of some inches, which pyplot knows, so that notebooks show it."""
    import matplotlib.pyplot as plt

    return plt.figure(figsize=(width, height), facecolor="white")
