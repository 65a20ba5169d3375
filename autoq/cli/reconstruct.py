"""``autoq reconstruct``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from autoq.cli.measured import improved_lines, measured_json
from autoq.cli.options import (
    DATA_HELP,
    CalibData,
    Device,
    EvalData,
    Interrupted,
    Json,
    Pick,
    RecipeModel,
    Seed,
    Version,
    print_json,
    say,
    this_command,
)


def reconstruct(
    recipe: Annotated[
        Path, typer.Argument(metavar="RUN|RECIPE", help="A run directory, or the file of a calibrated recipe.")
    ],
    data: Annotated[
        str | None,
        typer.Option(
            metavar="DATA",
            help=f"Unlabelled images to learn from: {DATA_HELP} [default: where the recipe was calibrated]",
        ),
    ] = None,
    images: Annotated[int, typer.Option(metavar="N", min=1, max=1_000_000, help="How many of them, at most.")] = 1024,
    iterations: Annotated[
        int | None,
        typer.Option(metavar="N", min=1, max=1_000_000, help="Training steps of each block. [default: 1000]"),
    ] = None,
    blocks: Annotated[
        str | None, typer.Option(metavar="NAMES", help="Only these: blocks.0,blocks.1. [default: all]")
    ] = None,
    importance: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="What errors of a block's output are weighted by: aph (average perturbation Hessian), brecq (squared "
            "gradients) or mse (nothing). [default: aph]",
        ),
    ] = None,
    batch: Annotated[
        int | None, typer.Option(metavar="N", min=1, max=1_000_000, help="Images in a step. [default: 32]")
    ] = None,
    bfloat16: Annotated[
        bool, typer.Option("--bfloat16", help="Train in bfloat16, which some processors do faster.")
    ] = False,
    on_disk: Annotated[
        bool, typer.Option("--on-disk", help="Keep activations in temporary files, not in memory.")
    ] = False,
    pick: Pick = "best",
    version: Version = None,
    eval_data: EvalData = None,
    model: RecipeModel = None,
    calib_data: CalibData = None,
    seed: Seed = 0,
    device: Device = "auto",
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="For recipe.json, recipe.safetensors and reconstruction.csv. [default: NAME-reconstructed beside it]",
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Finish a recipe on unlabelled images: learn how weights are rounded, and scales, block by block.

    The same command resumes an interrupted reconstruction.
    """
    from autoq.display import RunDisplay
    from autoq.exporters import pick_recipe

    calibrated = pick_recipe(recipe, pick, version=version).recipe
    folder = out or recipe.parent / f"{recipe.stem}-reconstructed"
    given = {"iterations": iterations, "batch": batch, "importance": importance}
    try:
        with RunDisplay() as display:
            from autoq.reconstruction.settings import ReconstructionSettings
            from autoq.runs.recipe_work import make_checked
            from autoq.runs.reconstruct import ReconstructSettings, reconstruct_recipe

            chosen = None if blocks is None else tuple(name.strip() for name in blocks.split(","))
            training = make_checked(ReconstructionSettings, {**given, "bfloat16": bfloat16, "seed": seed})
            settings = ReconstructSettings(folder, data, images, training, chosen, eval_data, on_disk)
            found = reconstruct_recipe(calibrated, settings, model, device, calib_data, progress=display)
    except KeyboardInterrupt:
        raise Interrupted(f"interrupted; run the same command to resume: {this_command()}") from None
    path = folder / "recipe.json"
    if as_json:
        reports = [
            {"block": report.name, **{k: v for k, v in vars(report).items() if k != "name"}} for report in found.reports
        ]
        print_json({"out": str(folder), "recipe": str(path), **measured_json(found.recipe), "blocks": reports})
        return
    for line in improved_lines(calibrated, found.recipe):
        say(line)
    typer.echo(f"recipe: {path}")
