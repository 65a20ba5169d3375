"""Finish a recipe in closed form: a directory with the recipe and the weights that were solved again."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass, field

from autoq.errors import RecipeError
from autoq.events import PhaseAdvanced, PhaseStarted, Progress, ignore
from autoq.files import sha256_hex
from autoq.recipe import FinishingReference, Recipe
from autoq.reconstruction.finishing import FinishingSettings, LayerReport, finish
from autoq.runs.calibrated import CalibratedRecipe
from autoq.runs.images import CalibrationImages
from autoq.runs.recipe_work import RecipeWork, open_session
from autoq.runs.reconstruction_directory import FinishingDirectory
from autoq.runs.session import Session
from autoq.scoring.evaluator import choose_batch_size
from autoq.scoring.solved_operands import SolvedOperands, read_operands, write_operands
from autoq.scoring.sources import SolvedSource

FINISHING_IMAGES = 512
"""Unlabelled images that are enough: more hardly change the result."""


@dataclass(frozen=True)
class FinishSettings:
    """What to finish a recipe on, how, and where to put it.

    Attributes:
        out: directory for ``recipe.json``, ``recipe.safetensors`` and ``finishing.csv``.
        data: unlabelled images, by name or as in ``GivenImages``; None: where the recipe's calibration images are from.
        images: how many, at most.
        seed: that chooses them.
        solving: how weights are solved.
        eval_data: labelled images to measure accuracy on, by name or as in ``GivenImages``, or None.
    """

    out: str | os.PathLike[str]
    data: object = None
    images: int = FINISHING_IMAGES
    seed: int = 0
    solving: FinishingSettings = field(default_factory=FinishingSettings)
    eval_data: object = None


def finish_recipe(
    recipe: Recipe,
    settings: FinishSettings,
    model: str | None = None,
    device: str = "auto",
    calib_data: object = None,
    *,
    session: Session | None = None,
    progress: Progress = ignore,
) -> Recipe:
    """Load a calibrated recipe's model and bank, and finish and measure it.

    Args:
        recipe: what to finish; its bank is looked for beside it, and solved again if it is not there.
        settings: images and directory.
        model: the model's name, if it is not where the recipe says.
        device: as in ``Session.open``.
        calib_data: the calibration images, by name or as in ``GivenImages``, if they have moved or the recipe names
            none.
        session: the model, already open; ``model`` and ``device`` are then not used.
        progress: told what happens.

    Raises:
        InputError: the recipe has weights of its own already, does not fit its model or images, or the directory cannot
            be written or holds something else.
        RunError: the quantized model produces NaN.
    """
    if recipe.improved is not None:
        done = "finished" if recipe.reconstruction is None else "reconstructed"
        raise RecipeError(f"the recipe is {done} already: give the calibrated one that it was made from")
    directory = FinishingDirectory(settings.out)
    work = RecipeWork(settings.data, settings.images, settings.seed, settings.eval_data, calib_data)
    with directory.opened({}) as enter:
        work.check_named()
        session = open_session(recipe, model, device, session, progress)
        calibrated, images = work.open(session, recipe, enter, progress)
        return finish_calibrated(calibrated, images, directory.path, settings.solving, progress)


def finish_calibrated(
    calibrated: CalibratedRecipe,
    images: CalibrationImages,
    out: str | os.PathLike[str],
    solving: FinishingSettings,
    progress: Progress = ignore,
) -> Recipe:
    """Finish a recipe of an open session; write ``recipe.json``, ``recipe.safetensors`` and ``finishing.csv``.

    A recipe that is finished there already is only measured again.

    Args:
        calibrated: the recipe.
        images: unlabelled images.
        out: a directory for this recipe alone, made if need be. No other process writes there.
        solving: how weights are solved.
        progress: told what happens.

    Raises:
        RunDirectoryError: the directory cannot be written or holds something else; nothing there is changed.
        RunError: the quantized model produces NaN.
    """
    directory, session = FinishingDirectory(out), calibrated.session
    identity = calibrated.identity(images) | asdict(solving)
    directory.refuse_other(identity)
    directory.create()
    if not directory.is_finished:
        directory.save(identity)
        operands, reports = _solve(calibrated, images, solving, progress)
        write_operands(directory.operands, operands, session.folded, identity)
        directory.write_table(reports)
    operands = read_operands(directory.operands, session.model).operands
    score = calibrated.score(SolvedSource(session.model, operands), progress)
    reference = FinishingReference(
        file=directory.operands.name,
        sha256=sha256_hex([directory.operands.read_bytes()]),
        data=images.data,
        images=len(images.tensor),
        seed=images.seed,
        settings={key: value for key, value in asdict(solving).items() if value != asdict(FinishingSettings())[key]},
    )
    finished = calibrated.recipe.model_copy(update={"operands": None, "finishing": reference, "score": score})
    finished.save(directory.recipe)
    return finished.located(directory.path)


def _solve(
    calibrated: CalibratedRecipe, images: CalibrationImages, solving: FinishingSettings, progress: Progress
) -> tuple[SolvedOperands, list[LayerReport]]:
    """Finish every layer, telling of each."""
    session = calibrated.session
    count = sum(1 for site, operand in calibrated.operands.quantizers if operand == "weight")
    reports: list[LayerReport] = []

    def on_layer(report: LayerReport) -> None:
        reports.append(report)
        progress(PhaseAdvanced("finishing", len(reports)))

    progress(PhaseStarted("finishing", count, f"{len(images.tensor)} images of {images.data}"))
    operands = finish(
        session.model,
        calibrated.operands,
        images.tensor,
        solving,
        batch_size=choose_batch_size(session.traced),
        operations=calibrated.operations(),
        on_layer=on_layer,
    )
    return operands, reports
