"""``autoq evaluate``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from autoq.cli.measured import metrics_text
from autoq.cli.options import DATA_HELP, CalibData, Device, Json, RecipeModel, print_json


def evaluate(
    recipe: Annotated[Path, typer.Argument(metavar="RECIPE", help="A recipe file.")],
    data: Annotated[
        str | None,
        typer.Option(metavar="DATA", help=f"{DATA_HELP} [default: the recipe's calibration images]"),
    ] = None,
    model: RecipeModel = None,
    calib_data: CalibData = None,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Measure one recipe: accuracy, discrepancy from full precision, BOPs, size."""
    from autoq.recipe import Recipe
    from autoq.runs.evaluate import evaluate_recipe

    loaded = Recipe.load(recipe)
    found = evaluate_recipe(loaded, data, model, device, calib_data)
    metrics = found.accuracy.metrics if found.accuracy else {}
    document: dict[str, Any] = {
        "bops": found.cost.bops,
        "group_bops": found.cost.group_bops,
        "weight_layers_only_bops": found.cost.weight_layers_only_bops,
        "weight_bytes": found.cost.weight_bytes,
        "kl_nats": found.score.kl_nats,
        "agreement_percent": found.score.agreement_percent,
        "sqnr_db": found.score.sqnr_db,
        **{metric.name: metrics.get(metric.name) for metric in found.task.metrics},
        "images": found.score.images,
    }
    if as_json:
        print_json(document)
        return
    from autoq.units import format_bops, format_digits, format_kl

    typer.echo(f"cost       {format_bops(found.cost.bops)} ({format_bops(found.cost.group_bops)} of it for groups)")
    typer.echo(f"           {format_bops(found.cost.weight_layers_only_bops)} in weight layers alone")
    typer.echo(f"weights    {format_digits(found.cost.weight_bytes / 1e6)} MB")
    typer.echo(f"KL         {format_kl(found.score.kl_nats)} nats over {found.score.images} images")
    sqnr = f"{found.task.element} SQNR {found.score.sqnr_db:.1f} dB"
    if found.score.agreement_percent is None:
        typer.echo(f"           {sqnr}")
    else:
        typer.echo(f"agreement  {found.score.agreement_percent:.2f} %, {sqnr}")
    if found.accuracy:
        typer.echo(f"accuracy   {metrics_text(found.task, found.accuracy)}")
    else:
        typer.echo("accuracy   not measured: no labels")
