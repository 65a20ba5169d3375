"""Quantize a model by a published method: a directory with the recipe and its bank."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path

from autoq.cost import model_cost
from autoq.events import PhaseAdvanced, PhaseStarted, Progress, ignore
from autoq.files import check_writable, make_writable
from autoq.methods._base import BaseMethod
from autoq.methods.bit_widths import BitWidths
from autoq.recipe import Recipe
from autoq.reconstruction.mlp_graph import check_mlps, find_mlps
from autoq.runs.recipes import options_of
from autoq.runs.reconstruct import finish_recipe
from autoq.runs.reconstruction_dir import ReconstructionDirectory
from autoq.runs.relu_model import open_relu_model
from autoq.runs.session import Session
from autoq.runs.steps import Observed, refuse_unwritable, score_recipe
from autoq.tasks import task_to_record


@dataclass(frozen=True)
class QuantizeSettings:
    """What to calibrate on and where to put it.

    Attributes:
        data: calibration images.
        images: how many; None: as many as the method's paper.
        seed: chooses images and tokens.
        eval_data: labelled images to measure accuracy on, or None.
        out: directory for ``recipe.json`` and ``bank/``.
    """

    data: str
    out: str | os.PathLike[str]
    images: int | None = None
    seed: int = 0
    eval_data: str | None = None


_CALIBRATED_ON = 128
"""Images that quantizers are calibrated and a recipe is scored on, where there are more to reconstruct on."""


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
    folder = Path(settings.out)
    refuse_unwritable(folder, check_writable)
    training, mlps = method.reconstruction_settings(settings.seed), method.mlp_settings(settings.seed)
    on_disk = bool(method.options.on_disk)
    if training is not None:
        ReconstructionDirectory(folder).refuse_foreign()
    if mlps is not None:
        check_mlps(find_mlps(session.traced))
    labelled = session.labelled_images(settings.eval_data) if settings.eval_data is not None else None
    count = settings.images or method.images
    progress(PhaseStarted("images", count, settings.data))
    images = session.calibration_images(settings.data, count, settings.seed)
    refuse_unwritable(folder, make_writable)  # wrong input leaves nothing behind: made once all of it is known good
    session = session.fitted(lambda: images)
    if mlps is not None:
        session = open_relu_model(session, images, mlps, folder, on_disk, progress)
    many = images
    if training is not None:
        images = replace(images, tensor=images.tensor[:_CALIBRATED_ON])
    sites = method.sites(session.traced, bits)
    norms = method.reparameterized(session.traced, bits)
    observed = Observed(len(images.tensor), progress)
    session = session.rescaled(norms, lambda: images, folder / "bank", observed)
    bank = session.bank(lambda: images, images.sha256, method.settings(settings.seed), observed, sites)
    bank.load(folder / "bank")
    options = options_of(sites)
    progress(PhaseStarted("calibration", len(options)))
    bank.solve_into(folder / "bank", options, lambda done, _: progress(PhaseAdvanced("calibration", done)))
    recipe = Recipe(
        model=session.reference,
        sites=sites,
        reparameterized=norms,
        method=f"{method.name} {bits}",
        calibration=session.calibration_reference(images, bank),
        cost=model_cost(session.traced.sites, sites).record(),
        task=task_to_record(session.task),
    )
    if training is not None:
        return finish_recipe(
            session,
            bank,
            recipe,
            many,
            folder,
            training,
            scored_on=images.tensor,
            labelled=labelled,
            on_disk=on_disk,
            progress=progress,
        ).recipe
    score = score_recipe(session.model, bank, sites, images.tensor, labelled, progress, session.task)
    recipe = recipe.model_copy(update={"score": score})
    recipe.save(folder / "recipe.json")
    return recipe
