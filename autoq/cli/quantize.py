"""``autoq quantize``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from autoq.cli.measured import accuracy_line, measured_json
from autoq.cli.options import (
    Data,
    Device,
    EvalData,
    Interrupted,
    Json,
    Model,
    Output,
    Pretrained,
    Seed,
    Task,
    TaskOption,
    default_out,
    print_json,
    say,
    this_command,
)


def _print_differences(method: str | None) -> None:
    """Print what the published protocol of a method does, and what is done by default."""
    if method is None:
        return
    from rich.console import Console
    from rich.table import Table

    from autoq.methods import METHODS

    cls = METHODS.lookup(method)
    if not cls.differences:
        typer.echo(f"{cls.name} has one protocol.")
        raise typer.Exit
    table = Table("what", "published", "autoq", title=f"{cls.name} ({cls.source})", show_lines=True)
    for each in cls.differences:
        published = f"{each.published}\nnot built; here: {each.here}" if each.here else each.published
        table.add_row(each.subject, published, each.autoq)
    Console().print(table)
    raise typer.Exit


def quantize(
    method: Annotated[
        str,
        typer.Option("--method", metavar="NAME", help="rtn, fq-vit, ptq4vit, repq-vit, igq-vit, adalog or aphq-vit."),
    ],
    bits: Annotated[
        str, typer.Option("--bits", metavar="BITS", help="w4a4; w8a8s4 for 4-bit attention maps (papers' 8/8/4).")
    ],
    protocol: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="autoq: strict 2^b codes and improvements; published: as in the authors' code "
            "(--differences METHOD tells where they differ). [default: autoq]",
        ),
    ] = None,
    differences: Annotated[  # noqa: ARG001 - its callback ends the command
        str | None,
        typer.Option(
            metavar="METHOD",
            is_eager=True,
            callback=_print_differences,
            help="Print how the protocols of a method differ, and stop.",
        ),
    ] = None,
    model: Model = "vit_digits",
    pretrained: Pretrained = True,
    data: Data = "digits",
    eval_data: EvalData = None,
    calib_images: Annotated[
        int | None,
        typer.Option(
            metavar="N", min=1, max=1_000_000, help="Images to calibrate on. [default: as in the method's paper]"
        ),
    ] = None,
    observer: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="fq-vit: min_max, ema, percentile, omse; igq-vit: percentile, min_max, mse."),
    ] = None,
    groups: Annotated[
        int | None, typer.Option(metavar="N", min=1, max=1_000_000, help="igq-vit: groups. [default: 8]")
    ] = None,
    ptf: Annotated[
        bool | None, typer.Option("--ptf/--no-ptf", help="fq-vit: integer LayerNorm on power-of-two factors.")
    ] = None,
    lis: Annotated[bool | None, typer.Option("--lis/--no-lis", help="fq-vit: integer softmax to logarithms.")] = None,
    iterations: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=1,
            max=1_000_000,
            help="aphq-vit: training steps of each block and each MLP. [default: 1000]",
        ),
    ] = None,
    mlp: Annotated[
        bool | None,
        typer.Option("--mlp/--no-mlp", help="aphq-vit: replace GELU by ReLU and train MLPs first. [default: --mlp]"),
    ] = None,
    importance: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="aphq-vit: errors of blocks weighted by aph, brecq or mse. [default: aph]"),
    ] = None,
    bfloat16: Annotated[bool | None, typer.Option("--bfloat16", help="aphq-vit: train blocks in bfloat16.")] = None,
    on_disk: Annotated[
        bool | None, typer.Option("--on-disk", help="aphq-vit: activations in temporary files, not in memory.")
    ] = None,
    seed: Seed = 0,
    task: Task = "classification",
    task_option: TaskOption = None,
    output: Output = None,
    device: Device = "auto",
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="For recipe.json and bank/, of aphq-vit also recipe.safetensors and model/. "
            "[default: autoq-runs/MODEL-METHOD-BITS]",
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Quantize a model by a published method, the same bits everywhere.

    The same command resumes an interrupted run.
    """
    from autoq.display import RunDisplay
    from autoq.methods import BitWidths, MethodOptions, create_method

    options = MethodOptions(protocol, observer, groups, ptf, lis, iterations, importance, mlp, bfloat16, on_disk)
    chosen = create_method(method, options)
    widths = BitWidths.parse(bits)
    folder = out or default_out(model, f"{method}-{widths}")
    try:
        with RunDisplay() as display:
            from autoq.events import PhaseStarted
            from autoq.runs.labels import check_named
            from autoq.runs.quantize import QuantizedDirectory, QuantizeSettings
            from autoq.runs.quantize import quantize as run
            from autoq.runs.session import Session
            from autoq.tasks import make_task, read_settings, with_settings

            meaning = with_settings(make_task(task, output=output), read_settings(task_option or ()))
            check_named((data, "calibration"), (eval_data, "evaluation"))
            QuantizedDirectory(folder).refuse_unwritable()
            display(PhaseStarted("model", detail=model))
            session = Session.open(model, pretrained, device, meaning)
            recipe = run(
                session, chosen, widths, QuantizeSettings(data, folder, calib_images, seed, eval_data), display
            )
    except KeyboardInterrupt:
        raise Interrupted(f"interrupted; run the same command to resume: {this_command()}") from None
    path = folder / "recipe.json"
    cost, score = recipe.cost, recipe.score
    assert cost is not None and score is not None  # noqa: S101, PT018 - quantize fills both
    if as_json:
        print_json({"out": str(folder), "recipe": str(path), "method": recipe.method, **measured_json(recipe)})
        return
    from autoq.units import format_bops, format_kl

    typer.echo(
        f"{recipe.method}: KL {format_kl(score.kl_nats)} nats over {score.images} images, {format_bops(cost.bops)}"
    )
    if (accuracy := accuracy_line(recipe)) is not None:
        say(accuracy)
    typer.echo(f"recipe: {path}")
