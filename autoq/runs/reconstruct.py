"""Reconstruct a recipe on unlabelled images: a directory with the recipe and its reconstructed weights."""

from __future__ import annotations

import os
from dataclasses import dataclass, field

from autoq.errors import RecipeError
from autoq.events import Progress, ignore
from autoq.graph.blocks import choose_blocks, find_blocks
from autoq.recipe import Recipe
from autoq.reconstruction.settings import ReconstructionSettings
from autoq.runs.recipe_work import RecipeWork, open_session
from autoq.runs.reconstruct_recipe import ReconstructedRecipe, reconstruct_calibrated
from autoq.runs.reconstruction_directory import ReconstructionDirectory
from autoq.runs.session import Session


@dataclass(frozen=True)
class ReconstructSettings:
    """What to reconstruct on, how, and where to put it.

    Attributes:
        out: directory for ``recipe.json``, ``recipe.safetensors`` and ``reconstruction.csv``.
        data: images to learn from, by name or as in ``GivenImages``; None: where the recipe's calibration images are
            from.
        images: how many, at most; chosen by ``training.seed``.
        training: how blocks are reconstructed.
        blocks: names of those to reconstruct; None: all.
        eval_data: labelled images to measure accuracy on, by name or as in ``GivenImages``, or None.
        on_disk: keep activations in temporary files rather than in memory.
    """

    out: str | os.PathLike[str]
    data: object = None
    images: int = 1024
    training: ReconstructionSettings = field(default_factory=ReconstructionSettings)
    blocks: tuple[str, ...] | None = None
    eval_data: object = None
    on_disk: bool = False


def reconstruct_recipe(
    recipe: Recipe,
    settings: ReconstructSettings,
    model: str | None = None,
    device: str = "auto",
    calib_data: object = None,
    *,
    session: Session | None = None,
    progress: Progress = ignore,
) -> ReconstructedRecipe:
    """Load a calibrated recipe's model and bank, and reconstruct and measure it.

    Args:
        recipe: what to reconstruct, calibrated or finished; the bank of a calibrated one is looked for beside it, and
            solved again if it is not there.
        settings: images, training and directory.
        model: the model's name, if it is not where the recipe says.
        device: as in ``Session.open``.
        calib_data: the calibration images, by name or as in ``GivenImages``, if they have moved or the recipe names
            none.
        session: the model, already open; ``model`` and ``device`` are then not used.
        progress: told what happens.

    Raises:
        InputError: the recipe is reconstructed already, does not fit its model or images, or the directory cannot be
            written or holds something else.
        RunError: training failed, or the quantized model produces NaN.
    """
    if recipe.reconstruction is not None:
        raise RecipeError("the recipe is reconstructed already: give the one that it was made from")
    directory = ReconstructionDirectory(settings.out)
    work = RecipeWork(settings.data, settings.images, settings.training.seed, settings.eval_data, calib_data)
    with directory.opened({}) as enter:
        work.check_named()
        session = open_session(recipe, model, device, session, progress)
        choose_blocks(find_blocks(session.model), settings.blocks)
        calibrated, images = work.open(session, recipe, enter, progress)
        return reconstruct_calibrated(
            calibrated, images, directory.path, settings.training, settings.blocks, settings.on_disk, progress
        )
