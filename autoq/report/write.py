"""Write a report: each file atomically."""

from __future__ import annotations

import os
from pathlib import Path

from autoq.files import write_text
from autoq.report.figures import picture_path
from autoq.report.page import render_page
from autoq.report.plots import draw_pareto
from autoq.report.summary import RunSummary
from autoq.report.tables import baselines_csv, improved_csv, pareto_csv, trials_csv


def write_report(summary: RunSummary, directory: str | os.PathLike[str], picture_format: str = "png") -> list[Path]:
    """Write ``trials.csv``, ``pareto.csv``, ``pareto.png`` and ``report.html`` into an existing directory.

    Args:
        summary: of the run.
        directory: that it is written into.
        picture_format: of the picture: ``png``, ``svg`` or ``pdf``.

    Where published methods are compared with, ``baselines.csv`` too; where recipes were finished or
    reconstructed, ``improved.csv``.

    Returns:
        The paths of the files, in that order.

    Raises:
        InputError: there is no such format.
    """
    folder = Path(directory)
    picture = picture_path(folder, "pareto", picture_format)
    trials, pareto, page = (folder / name for name in ("trials.csv", "pareto.csv", "report.html"))
    write_text(trials, trials_csv(summary))
    write_text(pareto, pareto_csv(summary))
    draw_pareto(summary, picture)
    write_text(page, render_page(summary))
    written = [trials, pareto, picture, page]
    for name, wanted, text in (
        ("baselines.csv", summary.published, baselines_csv),
        ("improved.csv", summary.improved, improved_csv),
    ):
        if wanted:
            write_text(folder / name, text(summary))
            written.append(folder / name)
    return written
