"""``autoq evaluate``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from autoq.cli.measured import metrics_text
from autoq.cli.options import DATA_HELP, CalibData, Device, Json, Pick, RecipeModel, TaskOption, Version, print_json

if TYPE_CHECKING:
    from autoq.runs.evaluate import Measurement


def evaluate(
    recipe: Annotated[Path, typer.Argument(metavar="RUN|RECIPE", help="A run directory, or a recipe's file.")],
    data: Annotated[
        str | None,
        typer.Option(metavar="DATA", help=f"{DATA_HELP} [default: the recipe's calibration images]"),
    ] = None,
    pick: Pick = "best",
    version: Version = None,
    model: RecipeModel = None,
    calib_data: CalibData = None,
    task_option: TaskOption = None,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Measure one recipe: accuracy, discrepancy from full precision, BOPs, size."""
    from autoq.exporters import pick_recipe
    from autoq.runs.evaluate import evaluate_recipe
    from autoq.tasks import read_settings

    options, chosen = read_settings(task_option or ()), pick_recipe(recipe, pick, version=version).recipe
    found = evaluate_recipe(chosen, data, model, device, calib_data, task_options=options)
    if as_json:
        print_json(_to_json(found))
        return
    for line in _to_lines(found):
        typer.echo(line)


def _to_json(found: Measurement) -> dict[str, Any]:
    """Return all figures by name; None for metrics that were not measured."""
    metrics = found.accuracy.metrics if found.accuracy else {}
    return {
        "bops": found.cost.bops,
        "group_bops": found.cost.group_bops,
        "weight_layers_only_bops": found.cost.weight_layers_only_bops,
        "weight_bytes": found.cost.weight_bytes,
        "activation_bytes": found.cost.activation_bytes,
        "kl_nats": found.score.kl_nats,
        "agreement_percent": found.score.agreement_percent,
        "sqnr_db": found.score.sqnr_db,
        **{metric.name: metrics.get(metric.name) for metric in found.task.metrics},
        "images": found.score.images,
        "labels_by": found.labels_by,
        "full_precision": found.full_precision.metrics if found.full_precision else None,
        "per_class": found.per_class or None,
    }


def _to_lines(found: Measurement) -> list[str]:
    """Return the figures as lines of text."""
    from autoq.units import LABELS_BY, format_bops, format_bytes, format_kl

    cost, score = found.cost, found.score
    sqnr = f"{found.task.element} SQNR {score.sqnr_db:.1f} dB"
    has_agreement = score.agreement_percent is not None
    accuracy = [f"accuracy   {metrics_text(found.task, found.accuracy)}"] if found.accuracy else []
    if found.full_precision and found.labels_by:
        accuracy.append(f"           full precision {metrics_text(found.task, found.full_precision)}")
        accuracy.append(f"           labels matched {LABELS_BY[found.labels_by]}")
    accuracy += _class_lines(found)
    return [
        f"cost       {format_bops(cost.bops)} ({format_bops(cost.group_bops)} of it for groups and transforms)",
        f"           {format_bops(cost.weight_layers_only_bops)} in weight layers alone",
        f"weights    {format_bytes(cost.weight_bytes)} with their scales",
        f"activations {format_bytes(cost.activation_bytes or 0)} alive at most",
        f"KL         {format_kl(score.kl_nats)} nats over {score.images} images",
        f"agreement  {score.agreement_percent:.2f} %, {sqnr}" if has_agreement else f"           {sqnr}",
        *(accuracy or ["accuracy   not measured: no labels"]),
    ]


def _class_lines(found: Measurement) -> list[str]:
    """Return a table of the metrics of single classes, if there are any; a dash where one has no value."""
    rows = found.per_class
    if not rows:
        return []
    metrics = [metric for metric in found.task.class_metrics if any(metric.name in row for row in rows.values())]
    width = max(map(len, ["class", *rows]))
    lines = ["  ".join([f"{'class':<{width}}", *(f"{metric.title:>8}" for metric in metrics)])]
    for name, row in rows.items():
        values = [metric.format(row[metric.name]) if metric.name in row else "-" for metric in metrics]
        lines.append("  ".join([f"{name:<{width}}", *(f"{value:>8}" for value in values)]))
    return [f"           {line}" for line in lines]
