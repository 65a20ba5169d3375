"""``autoq sensitivity``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from autoq.cli.options import (
    CalibImages,
    CentreKeys,
    Data,
    Device,
    Exclude,
    Fix,
    Interrupted,
    Json,
    Model,
    Observer,
    Output,
    PictureFormat,
    Pretrained,
    Reparameterize,
    Rotate,
    SecondOrder,
    Seed,
    Space,
    Target,
    Task,
    TaskOption,
    default_out,
    named,
    print_json,
    short_name,
    this_command,
)
from autoq.sensitivity.proxies import PROXIES

if TYPE_CHECKING:
    from autoq.runs.sensitivity import SensitivityResult

_SHOWN = 10


def sensitivity(
    model: Model = "vit_digits",
    pretrained: Pretrained = True,
    data: Data = "digits",
    space: Space = "vit_w2-8",
    target: Target = None,
    fix: Fix = None,
    exclude: Exclude = None,
    proxy: Annotated[str, typer.Option(metavar="NAME", help=f"What is lost: {named(PROXIES)}.")] = "kl",
    observer: Observer = "mse",
    rotate: Rotate = True,
    centre_keys: CentreKeys = True,
    reparameterize: Reparameterize = True,
    second_order: SecondOrder = True,
    calib_images: CalibImages = 128,
    measure_all: Annotated[
        bool, typer.Option("--all", help="Measure every option; else what is worse anyway is interpolated.")
    ] = False,
    task: Task = "classification",
    task_option: TaskOption = None,
    output: Output = None,
    device: Device = "auto",
    seed: Seed = 0,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="For sensitivity.csv, its map and bank/, by aph also importance.csv, .safetensors and their map. "
            "[default: autoq-runs/MODEL-sensitivity]",
        ),
    ] = None,
    picture_format: PictureFormat = "png",
    as_json: Json = False,
) -> None:
    """Measure what each operand loses, quantized alone, at every option of a search space: a table and a heat map.

    --proxy aph also says how important each element of every block's output is.

    The same command resumes an interrupted measurement.
    """
    from autoq.display import RunDisplay
    from autoq.report.figures import picture_path
    from autoq.runs.sensitivity import IMPORTANCE_TABLE, TABLE, make_sensitivity_settings, run_sensitivity
    from autoq.tasks import read_settings

    settings = make_sensitivity_settings(
        model=model,
        pretrained=pretrained,
        data=data,
        space=space,
        fix=fix or (),
        target=target,
        exclude=exclude or (),
        proxy=proxy,
        observer=observer,
        rotate=rotate,
        centre_keys=centre_keys,
        reparameterize=reparameterize,
        second_order=second_order,
        calib_images=calib_images,
        task=task,
        task_options=read_settings(task_option or ()),
        output=output,
        device=device,
        seed=seed,
        exhaustive=measure_all,
    )
    folder = out or default_out(model, "sensitivity")
    picture, importance_picture = (picture_path(folder, name, picture_format) for name in ("sensitivity", "importance"))
    try:
        with RunDisplay() as display:
            result = run_sensitivity(settings, folder, display)
        _draw(result, model, picture)
        _draw_importance(result, model, importance_picture)
    except KeyboardInterrupt:
        raise Interrupted(f"interrupted; run the same command to resume: {this_command()}") from None
    if as_json:
        print_json(_to_json(result))
        return
    for line in _most_sensitive(result):
        typer.echo(line)
    typer.echo(f"table: {folder / TABLE}")
    typer.echo(f"map:   {picture}")
    if result.importance is not None:
        typer.echo(f"importance of blocks' outputs: {folder / IMPORTANCE_TABLE}")
        typer.echo(f"its map: {importance_picture}")


def _draw(result: SensitivityResult, model: str, path: Path) -> None:
    from autoq.report.sensitivity_map import draw_sensitivity

    title = f"{short_name(model)}: what each operand loses, quantized alone"
    draw_sensitivity(result.table, result.operands, path, title)


def _draw_importance(result: SensitivityResult, model: str, path: Path) -> None:
    if result.importance is None:
        return
    from autoq.report.importance_map import draw_importance

    title = f"{short_name(model)}: how much errors of each block's output matter"
    draw_importance(result.importance, path, title, result.label_names)


def _to_json(result: SensitivityResult) -> dict[str, Any]:
    """Return the table, and the importance of blocks' outputs where it was measured."""
    table = result.table
    document = {"out": result.out, "proxy": table.proxy, "images": table.images, "rows": _rows(result)}
    return document if result.importance is None else document | {"importance": _importance_rows(result)}


def _rows(result: SensitivityResult) -> list[dict[str, Any]]:
    return [
        {
            "site": row.site,
            "operand": row.operand,
            **row.config.model_dump(),
            "loss": row.loss,
            "measured": row.measured,
        }
        for row in result.table.rows
    ]


def _importance_rows(result: SensitivityResult) -> list[dict[str, Any]]:
    from autoq.sensitivity.importance_files import summary_rows

    assert result.importance is not None  # noqa: S101 - as its caller has seen
    return summary_rows(result.importance.outputs)


def _most_sensitive(result: SensitivityResult) -> list[str]:
    """List the operands that lose most at a middle bit-width, each at its best option of that width."""
    from autoq.report.sensitivity_map import best_cells
    from autoq.sensitivity.bit_sweep import middle_bits
    from autoq.sensitivity.proxies import LOSS_NAMES
    from autoq.units import format_kl

    cells = best_cells(result.table)
    if not cells:
        return ["The space quantizes nothing."]
    bits = middle_bits(bits for row in cells.values() for bits in row)
    found = [(row[bits], ":".join(operand)) for operand, row in cells.items() if bits in row]
    found.sort(key=lambda each: -each[0].loss)
    shown = found[:_SHOWN]
    of = f"{len(shown)} of {len(found)} operands" if len(shown) < len(found) else "operands"
    wide = max(len(name) for _, name in shown)
    lines = [f"most sensitive {of} at {bits} bits, by {LOSS_NAMES[result.table.proxy]}:"]
    for cell, name in shown:
        loss = format_kl(cell.loss) if cell.loss < float("inf") else "not finite"
        lines.append(f"  {name:<{wide}}  {loss:<10}  {cell.label.mark}".rstrip())
    return lines
