"""``autoq export``."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from autoq.cli.options import CalibData, Json, Pick, RecipeModel, Target, Version, explained, print_json, say
from autoq.errors import ExportError

if TYPE_CHECKING:
    from autoq.exporters import ExportReport

_FEW_AGREE = 95.0
"""Agreement, in percent, below which a warning is due: more differs than values at the borders of codes."""


def export(
    source: Annotated[
        Path | None, typer.Argument(metavar="RUN|RECIPE", help="A run directory, or a recipe's file.")
    ] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", metavar="FILE", help="The file to write.")] = None,
    pick: Pick = "best",
    version: Version = None,
    format_: Annotated[
        str,
        typer.Option(
            "--format",
            metavar="FORMAT",
            help="recipe, bundle, pt2, torch, onnx, onnx-int4, qonnx, torchao, compressed-tensors, aimet, csv or "
            "markdown; --list says more.",
        ),
    ] = "recipe",
    list_: Annotated[bool, typer.Option("--list", help="List the formats, and write nothing.")] = False,
    allow_float: Annotated[
        bool,
        typer.Option(
            "--allow-float", help="Leave operands in floating point that the format cannot hold or the target lacks."
        ),
    ] = False,
    target: Target = None,
    check_images: Annotated[
        int,
        typer.Option(
            "--check-images", metavar="N", min=1, max=1_000_000, help="Calibration images to compare with autoq on."
        ),
    ] = 64,
    model: RecipeModel = None,
    calib_data: CalibData = None,
    as_json: Json = False,
) -> None:
    """Write one recipe in a format, run what was written, and compare it with autoq."""
    if list_:
        _list(as_json)
        return
    if source is None or output is None:
        raise ExportError("say what to export, and where to: autoq export RUN --format FORMAT -o FILE")
    from autoq.api.exporting import export as write
    from autoq.exporters import EXPORTERS, pick_recipe

    EXPORTERS.lookup(format_)
    chosen, recipe, taken = pick_recipe(source, pick, version=version)
    options = {
        "model": model,
        "images": calib_data,
        "allow_float": allow_float,
        "target": target,
        "check_images": check_images,
    }
    with explained(output):
        report = write(recipe, output, format_, **options)  # type: ignore[arg-type]
    if as_json:
        print_json({"id": chosen, "version": taken} | report.to_json())
        return
    typer.echo(f"{chosen}, as {taken} -> {output}" if taken else f"{chosen} -> {output}")
    if recipe.score is not None and recipe.cost is not None:
        from autoq.cli.measured import figures_line

        say(figures_line(recipe))
    for line in _lines(report):
        say(line)


def _list(as_json: bool) -> None:
    """Print what each format holds."""
    from autoq.exporters import EXPORTERS

    rows = {
        name: {
            "suffix": exporter.suffix,
            "reader": exporter.reader,
            "expresses": exporter.expresses,
            "loses": exporter.loses,
            "install": "" if exporter.extra is None else f"pip install 'autoq[{exporter.extra}]'",
        }
        for name, exporter in EXPORTERS.items()
    }
    if as_json:
        print_json([{"format": name} | row for name, row in rows.items()])
        return
    for name, row in rows.items():
        typer.echo(f"{name} ({row['suffix'] or 'folder'})")
        for key in ("reader", "expresses", "loses", "install"):
            if row[key]:
                typer.echo(f"  {key:<10}{row[key]}")


def _lines(report: ExportReport) -> Iterator[str]:
    """Describe what was written."""
    yield f"written    {report.bytes / 1e6:.2f} MB in {report.seconds:.1f} s"
    if (found := report.agreement) is None:
        yield "compared   no: nothing runs this format"
    else:
        same = "" if found.agreement_percent is None else f"the same answer on {found.agreement_percent:.1f} %, "
        yield (
            f"compared   with autoq on {found.images} images: {same}mean difference {found.mean_difference:.2g} of "
            f"outputs of mean size {found.mean_magnitude:.2g}"
        )
        if found.agreement_percent is not None and found.agreement_percent < _FEW_AGREE:
            yield "           that is little: see plain operators and session options, and evaluate the file itself"
    for reason in dict.fromkeys(report.plain_operators.values()):
        names = [name for name, why in report.plain_operators.items() if why == reason]
        yield f"plain      {len(names)} operands in ordinary operators ({reason}): {names[0]}{', …' * (len(names) > 1)}"
    if report.left_in_float:
        yield f"float      {len(report.left_in_float)} operands: {', '.join(report.left_in_float)}"
    for name, value in report.session_options.items():
        yield f"set        {name} = {value}"
