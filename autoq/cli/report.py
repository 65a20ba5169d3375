"""``autoq report``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from autoq.cli.options import Json, PictureFormat, print_json


def report(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="A run directory.")],
    picture_format: PictureFormat = "png",
    as_json: Json = False,
) -> None:
    """Redraw tables, plots and the page of a run, finished or not."""
    from autoq.report import write_report
    from autoq.report.from_run import summarize
    from autoq.report.words import headline

    summary = summarize(directory)
    paths = write_report(summary, directory, picture_format)
    if as_json:
        print_json({"out": str(directory), "headline": headline(summary), "files": [str(path) for path in paths]})
        return
    typer.echo(headline(summary))
    for path in paths:
        typer.echo(str(path))
