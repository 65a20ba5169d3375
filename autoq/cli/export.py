"""``autoq export``."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Annotated

import typer

from autoq.cli.options import Json, print_json
from autoq.errors import InputError, RunDirectoryError


def export(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="A run directory.")],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FILE", help="The file to write.")],
    pick: Annotated[
        str, typer.Option(metavar="PICK", help="best, knee, an id such as trial-137 or w4a4, or a smaller budget.")
    ] = "best",
    version: Annotated[
        str | None,
        typer.Option(
            "--as",
            metavar="VERSION",
            help="searched, finished or reconstructed (by autoq search --finish, --reconstruct). "
            "[default: that of least discrepancy]",
        ),
    ] = None,
    format_: Annotated[str, typer.Option("--format", metavar="FORMAT", help="recipe.")] = "recipe",
    as_json: Json = False,
) -> None:
    """Write one recipe of a run to a file; its own weights, if it has any, to a .safetensors file of that name."""
    from autoq.api.applying import export as write
    from autoq.exporters import EXPORTERS
    from autoq.exporters import pick as pick_recipe

    EXPORTERS.lookup(format_)
    chosen, recipe, taken = pick_recipe(directory, pick, version=version)
    try:
        write(recipe, output, format_)
    except InputError:
        raise
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise  # not the user's choice of file
        raise RunDirectoryError(f"cannot write {os.fspath(output)!r}: {error.strerror}") from error
    if as_json:
        print_json({"id": chosen, "version": taken, "output": str(output), "format": format_})
    else:
        typer.echo(f"{chosen}, as {taken} -> {output}")
