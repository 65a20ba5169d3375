"""Finish a recipe on unlabelled images: a directory with the recipe and its reconstructed weights."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from autoq.calibration.transforms.integer_operations import integer_operations
from autoq.cost import model_cost
from autoq.errors import CalibrationError, MethodError, RecipeError
from autoq.events import BlockAdvanced, BlockFinished, PhaseAdvanced, PhaseStarted, Progress, ignore
from autoq.files import sha256_hex
from autoq.graph.blocks import choose_blocks, find_blocks
from autoq.recipe import Recipe, ReconstructionReference
from autoq.reconstruction.block_folder import BlockReport
from autoq.reconstruction.reconstruct import Iteration, reconstruct
from autoq.reconstruction.settings import ReconstructionSettings
from autoq.runs.calibrated import CalibratedRecipe
from autoq.runs.images import CalibrationImages, LabelledImages
from autoq.runs.recipes import calibrated_on, find_bank, name_of, open_model, options_of, own_images
from autoq.runs.reconstruction_directory import ReconstructionDirectory
from autoq.runs.session import Session
from autoq.scoring.solved_operands import SolvedOperands, read_operands, write_operands
from autoq.scoring.sources import SolvedSource

_APART = ("iterations", "importance", "seed")
"""Settings that a recipe names apart from the others."""


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


@dataclass(frozen=True)
class ReconstructedRecipe:
    """A recipe that was reconstructed.

    Attributes:
        recipe: as written.
        reports: of each block.
    """

    recipe: Recipe
    reports: tuple[BlockReport, ...]


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
        images = session.calibration_images(data, settings.images, settings.training.seed)
        session = session.fitted(lambda: own)
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


def _calibrate(
    session: Session, recipe: Recipe, images: CalibrationImages, labelled: LabelledImages | None, progress: Progress
) -> CalibratedRecipe:
    """Find the recipe's bank, or solve it again."""
    session, bank = find_bank(session, recipe, lambda: images)
    options = options_of(recipe.sites)
    if not len(bank):  # it was not found
        progress(PhaseStarted("calibration", len(options)))
    bank.solve_all(options, lambda done, _: progress(PhaseAdvanced("calibration", done)))
    recipe = recipe.model_copy(update={"calibration": session.calibration_reference(images, bank)})
    return CalibratedRecipe(session, bank, recipe, images, labelled)


def finish_recipe(
    calibrated: CalibratedRecipe,
    images: CalibrationImages,
    out: str | os.PathLike[str],
    training: ReconstructionSettings,
    blocks: Collection[str] | None = None,
    on_disk: bool = False,
    progress: Progress = ignore,
) -> ReconstructedRecipe:
    """Reconstruct a recipe of an open session; write ``recipe.json``, ``recipe.safetensors``, ``reconstruction.csv``.

    A reconstruction that was interrupted goes on after its last finished block, with the result that it would have had;
    of a finished one the recipe is only measured again.

    Args:
        calibrated: the recipe.
        images: to learn from.
        out: a directory for this recipe alone, which may be the bank's; made if need be. No other process writes there.
        training: how blocks are reconstructed.
        blocks: names of those to reconstruct; None: all.
        on_disk: keep activations in temporary files rather than in memory.
        progress: told what happens.

    Raises:
        RecipeError: the model has no such block.
        RunDirectoryError: the directory cannot be written or holds something else; nothing there is changed.
        RunError: training failed, or the quantized model produces NaN.
    """
    directory, session, recipe = ReconstructionDirectory(out), calibrated.session, calibrated.recipe
    names = None
    if blocks is not None:
        names = tuple(block.name for block in choose_blocks(find_blocks(session.model), blocks))
    identity: dict[str, Any] = {
        "recipe_sha256": recipe.content_hash,
        "weights_sha256": session.loaded.weights_sha256,
        "bank_fingerprint": calibrated.bank.fingerprint,
        "images_sha256": images.sha256,
        "blocks": names and list(names),
        **asdict(training),
    }
    directory.refuse_other(identity)
    directory.create()
    if directory.is_finished:
        reference = Recipe.load(directory.recipe).reconstruction
    else:
        directory.save(identity)
        _train(
            calibrated,
            images,
            directory,
            training=training,
            blocks=names,
            identity=identity,
            on_disk=on_disk,
            progress=progress,
        )
        reference = _reference(directory, images, training, names)
    operands = read_operands(directory.operands, session.model).operands
    score = calibrated.score(SolvedSource(session.model, operands), progress)
    cost = model_cost(session.traced.sites, recipe.sites).record()
    finished = recipe.model_copy(update={"reconstruction": reference, "score": score, "cost": cost})
    finished.save(directory.recipe)
    directory.remove_blocks()
    return ReconstructedRecipe(finished, directory.read_table())


def _train(
    calibrated: CalibratedRecipe,
    images: CalibrationImages,
    directory: ReconstructionDirectory,
    *,
    training: ReconstructionSettings,
    blocks: tuple[str, ...] | None,
    identity: Mapping[str, Any],
    on_disk: bool,
    progress: Progress,
) -> None:
    """Reconstruct block by block, and write what was learned and how it went."""
    session, sites, quantizer = calibrated.session, calibrated.recipe.sites, calibrated.bank.quantizer
    count = len(find_blocks(session.model) if blocks is None else blocks)
    watch = _Watch(count, progress)
    progress(PhaseStarted("reconstruction", count, f"{len(images.tensor)} images of {images.data}"))
    operands, reports = reconstruct(
        session.model,
        SolvedOperands({option[:2]: quantizer(*option) for option in options_of(sites)}),
        images.tensor,
        training,
        blocks=blocks,
        operations=integer_operations(session.traced, sites, quantizer),
        task=session.task,
        directory=directory.blocks,
        identity=identity,
        on_disk=on_disk,
        on_iteration=watch.advance,
        on_block=watch.finish,
    )
    write_operands(directory.operands, operands, session.factors, identity)
    directory.write_table(reports)


def _reference(
    directory: ReconstructionDirectory,
    images: CalibrationImages,
    training: ReconstructionSettings,
    blocks: tuple[str, ...] | None,
) -> ReconstructionReference:
    """Describe what was learned, and from what, as a recipe does."""
    own, default = asdict(training), asdict(ReconstructionSettings())
    return ReconstructionReference(
        file=directory.operands.name,
        sha256=sha256_hex([directory.operands.read_bytes()]),
        data=images.data,
        images=len(images.tensor),
        seed=training.seed,
        iterations=training.iterations,
        importance=training.importance,
        settings={key: value for key, value in own.items() if key not in _APART and value != default[key]},
        blocks=blocks,
    )


class _Watch:
    """Reports what training does as events."""

    def __init__(self, blocks: int, progress: Progress) -> None:
        self._blocks, self._progress, self._finished = blocks, progress, 0

    def advance(self, iteration: Iteration) -> None:
        """Report an iteration."""
        self._progress(
            BlockAdvanced(
                "reconstruction",
                iteration.block,
                iteration.number,
                iteration.blocks,
                iteration.done,
                iteration.iterations,
                iteration.loss,
            )
        )

    def finish(self, report: BlockReport) -> None:
        """Report a block that was reconstructed, or taken over from an earlier run."""
        self._finished += 1
        self._progress(
            BlockFinished(
                "reconstruction",
                report.name,
                self._finished,
                self._blocks,
                report.loss,
                report.before,
                report.after,
                report.kept,
            )
        )
