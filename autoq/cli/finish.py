"""``autoq finish``."""

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


def finish(
    recipe: Annotated[
        Path, typer.Argument(metavar="RUN|RECIPE", help="A run directory, or the file of a calibrated recipe.")
    ],
    data: Annotated[
        str | None,
        typer.Option(metavar="DATA", help=f"Unlabelled images: {DATA_HELP} [default: where the recipe was calibrated]"),
    ] = None,
    images: Annotated[int, typer.Option(metavar="N", min=1, max=1_000_000, help="How many of them, at most.")] = 512,
    ridge: Annotated[
        float | None,
        typer.Option(
            metavar="SHARE",
            help="How strongly new weights are held to those in full precision: more fits the images less. "
            "[default: 0.3]",
        ),
    ] = None,
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
            help="For recipe.json, recipe.safetensors and finishing.csv. [default: NAME-finished beside it]",
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Finish a recipe in closed form: solve weights again, layer by layer, on its own quantized inputs."""
    from autoq.display import RunDisplay
    from autoq.exporters import pick_recipe

    calibrated = pick_recipe(recipe, pick, version=version).recipe
    folder = out or recipe.parent / f"{recipe.stem}-finished"
    try:
        with RunDisplay() as display:
            from autoq.reconstruction.finishing import FinishingSettings
            from autoq.runs.finish import FinishSettings, finish_recipe
            from autoq.runs.recipe_work import make_checked

            solving = make_checked(FinishingSettings, {"ridge": ridge})
            settings = FinishSettings(folder, data, images, seed, solving, eval_data)
            finished = finish_recipe(calibrated, settings, model, device, calib_data, progress=display)
    except KeyboardInterrupt:
        raise Interrupted(
            f"interrupted; nothing is finished yet: run the same command again: {this_command()}"
        ) from None
    path = folder / "recipe.json"
    if as_json:
        print_json({"out": str(folder), "recipe": str(path), **measured_json(finished)})
        return
    for line in improved_lines(calibrated, finished):
        say(line)
    typer.echo(f"recipe: {path}")
