"""Finish a recipe on unlabelled images: a directory with the recipe and its reconstructed weights."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from autoq.errors import CalibrationError, MethodError, RecipeError
from autoq.events import PhaseAdvanced, PhaseStarted, Progress, ignore
from autoq.graph.blocks import choose_blocks, find_blocks
from autoq.recipe import Recipe
from autoq.reconstruction.settings import ReconstructionSettings
from autoq.runs.calibrated import CalibratedRecipe
from autoq.runs.finish import ReconstructedRecipe, finish_recipe
from autoq.runs.images import CalibrationImages, LabelledImages
from autoq.runs.recipes import OwnImages, calibrated_on, find_bank, name_of, open_model, options_of, own_images
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


def make_training(given: Mapping[str, Any]) -> ReconstructionSettings:
    """Make settings of the training of what a person has given; the rest have their defaults.

    Raises:
        MethodError: a value is out of its range.
    """
    try:
        return ReconstructionSettings(**given)
    except CalibrationError as error:
        raise MethodError(str(error)) from error


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
        recipe: what to finish; its bank is looked for beside it, and solved again if it is not there.
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
        raise RecipeError("the recipe is reconstructed already: give the calibrated one that it was made from")
    directory = ReconstructionDirectory(settings.out)
    with directory.opened({}) as enter:
        progress(PhaseStarted("model", detail=model or recipe.model.name))
        if session is None:
            session = open_model(recipe, model, device)
        else:
            session.check(recipe)
        choose_blocks(find_blocks(session.model), settings.blocks)
        data = settings.data
        if data is None and recipe.calibration is not None:
            data = recipe.calibration.data
        calib_data = _calibration_data(recipe, data) if calib_data is None else calib_data
        recipe = calibrated_on(recipe, calib_data)
        labelled = None if settings.eval_data is None else session.labelled_images(settings.eval_data)
        progress(PhaseStarted("images", settings.images, data if isinstance(data, str) else ""))
        own = own_images(session, recipe, calib_data)
        session = session.fitted(lambda: own.calibrating)
        images = _to_learn_from(session, data, settings, own)
        enter()
        calibrated = _calibrate(session, recipe, own, labelled, progress)
        return finish_recipe(
            calibrated, images, directory.path, settings.training, settings.blocks, settings.on_disk, progress
        )


def _calibration_data(recipe: Recipe, data: object) -> object:
    """Return ``data`` if that is what the recipe was calibrated on, or will be; None if the recipe knows better."""
    if recipe.calibration is None:
        return data
    return data if not isinstance(data, str) and recipe.calibration.data == name_of(data) else None


def _to_learn_from(session: Session, data: object, settings: ReconstructSettings, own: OwnImages) -> CalibrationImages:
    """Load images to learn from, without those that the recipe is scored on where these are held out."""
    count, seed = settings.images, settings.training.seed
    if own.scoring is own.calibrating:
        return session.calibration_images(data, count, seed)
    return session.calibration_images(data, count, seed, len(own.scoring.tensor)).without(own.scoring, count)


def _calibrate(
    session: Session, recipe: Recipe, own: OwnImages, labelled: LabelledImages | None, progress: Progress
) -> CalibratedRecipe:
    """Find the recipe's bank, or solve it again."""
    images, scoring = own.calibrating, None if own.scoring is own.calibrating else own.scoring
    session, bank = find_bank(session, recipe, lambda: images)
    options = options_of(recipe.sites)
    if not len(bank):  # it was not found
        progress(PhaseStarted("calibration", len(options)))
    bank.solve_all(options, lambda done, _: progress(PhaseAdvanced("calibration", done)))
    recipe = recipe.model_copy(update={"calibration": session.calibration_reference(images, bank, scoring)})
    return CalibratedRecipe(session, bank, recipe, images, labelled, scoring)
