"""Quantize a model by a published method: a directory with the recipe and its bank."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

from autoq.events import PhaseStarted, Progress, ignore
from autoq.methods._base import BaseMethod
from autoq.methods.bit_widths import BitWidths
from autoq.recipe import Recipe
from autoq.reconstruction.mlp_graph import check_mlps, find_mlps
from autoq.runs.calibrated import CalibratedRecipe
from autoq.runs.directory import BaseRunDirectory
from autoq.runs.images import CalibrationImages, LabelledImages
from autoq.runs.labels import warn_of_shared_images
from autoq.runs.opening import ObservedImages, calibration_reference, solve_bank
from autoq.runs.recipes import options_of
from autoq.runs.reconstruct_recipe import reconstruct_calibrated
from autoq.runs.reconstruction_directory import ReconstructionDirectory
from autoq.runs.reference import check_reference
from autoq.runs.relu_model import open_relu_model
from autoq.runs.session import Session
from autoq.runs.transforming import known_of, rescale_for
from autoq.scoring.sources import SolvedSource
from autoq.tasks import task_to_record


@dataclass(frozen=True)
class QuantizeSettings:
    """What to calibrate on and where to put it.

    Attributes:
        data: calibration images, by name or as in ``GivenImages``.
        images: how many; None: as many as the method's paper.
        seed: chooses images and tokens.
        eval_data: labelled images to measure accuracy on, by name or as in ``GivenImages``, or None.
        out: directory for ``recipe.json`` and ``bank/``.
    """

    data: object
    out: str | os.PathLike[str]
    images: int | None = None
    seed: int = 0
    eval_data: object = None


class QuantizedDirectory(BaseRunDirectory[dict[str, Any]]):
    """A recipe and its bank; the bank says what both depend on."""

    holds: ClassVar[str] = "a quantized model"
    record_name: ClassVar[str] = "recipe.json"


def quantize(
    session: Session, method: BaseMethod, bits: BitWidths, settings: QuantizeSettings, progress: Progress = ignore
) -> Recipe:
    """Make a method's recipe for a model, solve its parameters, measure it, and write ``recipe.json`` and ``bank/``.

    A bank of the same method, bits, model and images that is there already is used; a killed run goes on with what it
    had solved. A method that reconstructs also leaves ``recipe.safetensors``, and ``model/`` if it changes the model.

    Args:
        session: the model.
        method: the published method.
        bits: uniform widths.
        settings: images and directory.
        progress: told what happens.

    Returns:
        The recipe, as written.

    Raises:
        InputError: images cannot be had, or the directory cannot be written or has another bank.
        RunError: an operand cannot be calibrated, or the quantized model produces NaN.
    """
    method = method.for_task(session.task)
    training, mlps = method.reconstruction_settings(settings.seed), method.mlp_settings(settings.seed, bits)
    directory = QuantizedDirectory(settings.out) if training is None else ReconstructionDirectory(settings.out)
    on_disk = bool(method.options.on_disk)
    if mlps is not None:
        check_mlps(find_mlps(session.traced))
    with directory.opened({}) as enter:
        labelled = None if settings.eval_data is None else session.labelled_images(settings.eval_data)
        warn_of_shared_images(settings.data, settings.eval_data)
        count = settings.images or method.calibration_images
        progress(PhaseStarted("images", count, settings.data if isinstance(settings.data, str) else ""))
        images = session.calibration_images(settings.data, count, settings.seed)
        session = session.fitted(lambda: images)
        check_reference(session, images)
        enter()
        targets = None if mlps is None else session.model  # the given one: blocks make up for its trained MLPs too
        if mlps is not None:
            session = open_relu_model(session, images, mlps, directory.path, on_disk, progress)
        few = images if training is None else replace(images, tensor=images.tensor[: method.starting_images])
        calibrated = calibrate_method(session, method, bits, few, directory.path / "bank", labelled, progress)
        if training is None:
            return _score(calibrated, directory, progress)
        return reconstruct_calibrated(
            calibrated, images, directory.path, training, on_disk=on_disk, progress=progress, targets=targets
        ).recipe


def calibrate_method(
    session: Session,
    method: BaseMethod,
    bits: BitWidths,
    images: CalibrationImages,
    directory: Path,
    labelled: LabelledImages | None = None,
    progress: Progress = ignore,
) -> CalibratedRecipe:
    """Make a method's recipe for a model, and solve it into the bank in ``directory``.

    Args:
        session: the model, its task fitted.
        method: the published method.
        bits: uniform widths.
        images: to calibrate on.
        directory: of the bank; what it has of this recipe is not solved again.
        labelled: to measure accuracy on, or None.
        progress: told what happens.

    Raises:
        RunDirectoryError: the bank there was solved for something else.
        RunError: an operand cannot be calibrated.
    """
    sites = method.sites(session.traced, bits)
    norms = method.reparameterized(session.traced, bits)
    observed = ObservedImages(len(images.tensor), progress)
    calibration = method.settings(images.seed)
    known = known_of(session, directory) if norms else None
    session = rescale_for(session, norms, lambda: images, calibration, known, observed, sites)
    bank = session.bank(lambda: images, images.sha256, calibration, observed, sites)
    bank.load(directory)
    solve_bank(bank, options_of(sites), directory, progress)
    recipe = Recipe(
        model=session.reference,
        sites=sites,
        reparameterized=norms,
        method=method.label(bits),
        calibration=calibration_reference(images, bank),
        cost=session.costs.cost(sites).record(),
        task=task_to_record(session.task),
    )
    return CalibratedRecipe.from_bank(session, bank, recipe, images, labelled)


def _score(
    calibrated: CalibratedRecipe, directory: QuantizedDirectory | ReconstructionDirectory, progress: Progress
) -> Recipe:
    """Measure a recipe as it was calibrated, and write it."""
    score = calibrated.score(SolvedSource(calibrated.session.model, calibrated.operands), progress)
    recipe = calibrated.recipe.model_copy(update={"score": score})
    recipe.save(directory.path / "recipe.json")
    return recipe
