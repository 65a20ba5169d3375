"""``autoq worker``."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from autoq.cli.options import Json, parse_seconds, print_json


def worker(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="The run directory of a search, on a shared disk.")],
    wait: Annotated[
        str, typer.Option(metavar="TIME", help="How long to wait for a search to begin there: 90s, 10m or 1.5h.")
    ] = "10m",
    as_json: Json = False,
) -> None:
    """Evaluate recipes for a search that was started with ``--executor directory``, until it ends.

    Start as many as there are cores or GPUs to spare, on any machines, before or after the search.
    """
    seconds = parse_seconds(wait)
    from autoq.runs.search.serving import serve_search

    done = serve_search(directory, seconds, int(os.environ.get("SLURM_LOCALID", "0")))
    if as_json:
        print_json({"evaluated": done})
    else:
        typer.echo(f"did {done} jobs: recipes, and parts of other phases")
