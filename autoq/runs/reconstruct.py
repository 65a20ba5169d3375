"""Finish a recipe on unlabelled images: a directory with the recipe and its reconstructed weights."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from autoq.calibration import Bank
from autoq.calibration.transforms.integer_operations import integer_operations
from autoq.cost import model_cost
from autoq.errors import CalibrationError, MethodError, RecipeError
from autoq.events import BlockAdvanced, BlockFinished, PhaseAdvanced, PhaseStarted, Progress, ignore
from autoq.files import check_writable, make_writable, sha256_hex
from autoq.graph.blocks import choose_blocks, find_blocks
from autoq.recipe import Recipe, ReconstructionReference
from autoq.reconstruction.block_folder import BlockReport
from autoq.reconstruction.reconstruct import Iteration, reconstruct
from autoq.reconstruction.settings import ReconstructionSettings
from autoq.runs.images import CalibrationImages, LabelledImages
from autoq.runs.recipes import calibrated_on, find_bank, open_model, options_of, own_images
from autoq.runs.reconstruction_dir import ReconstructionDirectory
from autoq.runs.session import Session
from autoq.runs.steps import refuse_unwritable, score_recipe
from autoq.scoring.solved_operands import SolvedOperands, read_operands, write_operands
from autoq.scoring.sources import SolvedSource


@dataclass(frozen=True)
class ReconstructSettings:
    """What to reconstruct on, how, and where to put it.

    Attributes:
        out: directory for ``recipe.json``, ``recipe.safetensors`` and ``reconstruction.csv``.
        data: images to learn from; None: where the recipe's calibration images are from.
        images: how many, at most; chosen by ``training.seed``.
        training: how blocks are reconstructed.
        blocks: names of those to reconstruct; None: all.
        eval_data: labelled images to measure accuracy on, or None.
        on_disk: keep activations in temporary files rather than in memory.
    """

    out: str | os.PathLike[str]
    data: str | None = None
    images: int = 1024
    training: ReconstructionSettings = field(default_factory=ReconstructionSettings)
    blocks: tuple[str, ...] | None = None
    eval_data: str | None = None
    on_disk: bool = False


@dataclass(frozen=True)
class ReconstructedRecipe:
    """What came of it.

    Attributes:
        recipe: as written.
        reports: of each block.
    """

    recipe: Recipe
    reports: tuple[BlockReport, ...]


def make_training(given: Mapping[str, Any]) -> ReconstructionSettings:
    """Settings of the training from what a person has given; the rest have their defaults.

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
    calib_data: str | None = None,
    progress: Progress = ignore,
) -> ReconstructedRecipe:
    """Load a calibrated recipe's model and bank, and reconstruct and measure it.

    Args:
        recipe: what to finish; its bank is looked for beside it, and solved again if it is not there.
        settings: images, training and directory.
        model: the model, if it is not where the recipe says.
        device: as in ``Session.open``.
        calib_data: the calibration images, if they have moved or the recipe names none.
        progress: told what happens.

    Raises:
        InputError: the recipe is reconstructed already, does not fit its model or images, or the directory cannot be
            written or holds something else.
        RunError: training failed, or the quantized model produces NaN.
    """
    if recipe.reconstruction is not None:
        raise RecipeError("the recipe is reconstructed already: give the calibrated one that it was made from")
    out = Path(settings.out)
    refuse_unwritable(out, check_writable)
    ReconstructionDirectory(out).refuse_foreign()
    progress(PhaseStarted("model", detail=model or recipe.model.name))
    session = open_model(recipe, model, device)
    choose_blocks(find_blocks(session.model), settings.blocks)
    data = settings.data or (recipe.calibration.data if recipe.calibration else None)
    if calib_data is not None or (recipe.calibration is None and data is not None):
        recipe = calibrated_on(recipe, calib_data or data or "")
    labelled = session.labelled_images(settings.eval_data) if settings.eval_data is not None else None
    progress(PhaseStarted("images", settings.images, data or ""))
    own = own_images(session, recipe)
    images = session.calibration_images(data or own.data, settings.images, settings.training.seed)
    session, bank = find_bank(session.fitted(lambda: own), recipe, lambda: own)
    options = options_of(recipe.sites)
    if not len(bank):  # it was not found
        progress(PhaseStarted("calibration", len(options)))
    bank.solve_all(options, lambda done, _: progress(PhaseAdvanced("calibration", done)))
    recipe = recipe.model_copy(update={"calibration": session.calibration_reference(own, bank)})
    return finish_recipe(
        session,
        bank,
        recipe,
        images,
        out,
        settings.training,
        scored_on=own.tensor,
        labelled=labelled,
        blocks=settings.blocks,
        on_disk=settings.on_disk,
        progress=progress,
    )


def finish_recipe(
    session: Session,
    bank: Bank,
    recipe: Recipe,
    images: CalibrationImages,
    out: str | os.PathLike[str],
    training: ReconstructionSettings,
    *,
    scored_on: Tensor,
    labelled: LabelledImages | None = None,
    blocks: Collection[str] | None = None,
    on_disk: bool = False,
    progress: Progress = ignore,
) -> ReconstructedRecipe:
    """Reconstruct a recipe of an open session; write ``recipe.json``, ``recipe.safetensors``, ``reconstruction.csv``.

    A reconstruction that was interrupted goes on after its last finished block, with the result that it would have had;
    of a finished one the recipe is only measured again.

    Args:
        session: the model, rescaled as the recipe says; its slots are emptied.
        bank: of this session.
        recipe: calibrated, of this session and bank; its score may be missing.
        images: to learn from.
        out: a directory for this recipe alone, which may be the bank's; made if need be.
        training: how blocks are reconstructed.
        scored_on: the recipe's calibration images, of shape (N, C, H, W).
        labelled: to measure accuracy on, or None.
        blocks: names of those to reconstruct; None: all.
        on_disk: keep activations in temporary files rather than in memory.
        progress: told what happens.

    Raises:
        RecipeError: the model has no such block.
        RunDirectoryError: the directory cannot be written or holds something else; nothing there is changed.
        RunError: training failed, or the quantized model produces NaN.
    """
    directory = ReconstructionDirectory(Path(out))
    chosen = choose_blocks(find_blocks(session.model), blocks)
    names = None if blocks is None else tuple(block.name for block in chosen)
    identity: dict[str, Any] = {
        "recipe_sha256": recipe.content_hash,
        "weights_sha256": session.loaded.weights_sha256,
        "bank_fingerprint": bank.fingerprint,
        "images_sha256": images.sha256,
        "blocks": names and list(names),
        **asdict(training),
    }
    directory.refuse_other(identity)
    refuse_unwritable(directory.path, make_writable)
    if directory.is_finished:
        written = Recipe.load(directory.recipe)
        operands = read_operands(directory.operands, session.model).operands
        reference, reports = written.reconstruction, directory.read_table()
    else:
        directory.begin(identity)
        watch = _Watch(len(chosen), progress)
        progress(PhaseStarted("reconstruction", len(chosen), f"{len(images.tensor)} images of {images.data}"))
        calibrated = {option[:2]: bank.quantizer(*option) for option in options_of(recipe.sites)}
        operands, reports = reconstruct(
            session.model,
            SolvedOperands(calibrated),
            images.tensor,
            training,
            blocks=names,
            operations=integer_operations(session.traced, recipe.sites, bank.quantizer),
            task=session.task,
            directory=directory.blocks,
            identity=identity,
            on_disk=on_disk,
            on_iteration=watch.advance,
            on_block=watch.finish,
        )
        write_operands(directory.operands, operands, session.factors, identity)
        directory.write_table(reports)
        reference = ReconstructionReference(
            file=directory.operands.name,
            sha256=sha256_hex([directory.operands.read_bytes()]),
            data=images.data,
            images=len(images.tensor),
            seed=training.seed,
            iterations=training.iterations,
            importance=training.importance,
            settings=_other_settings(training),
            blocks=names,
        )
    source = SolvedSource(session.model, operands)
    score = score_recipe(session.model, source, recipe.sites, scored_on, labelled, progress, session.task)
    cost = model_cost(session.traced.sites, recipe.sites).record()
    finished = recipe.model_copy(update={"reconstruction": reference, "score": score, "cost": cost})
    finished.save(directory.recipe)
    directory.remove_blocks()
    return ReconstructedRecipe(finished, reports)


def _other_settings(training: ReconstructionSettings) -> dict[str, Any]:
    """The settings that differ from their defaults, but for those that a recipe names apart."""
    own, default = asdict(training), asdict(ReconstructionSettings())
    return {key: value for key, value in own.items() if key not in _APART and value != default[key]}


class _Watch:
    """Passes on what training reports."""

    def __init__(self, blocks: int, progress: Progress) -> None:
        self._blocks, self._progress, self._finished = blocks, progress, 0

    def advance(self, iteration: Iteration) -> None:
        """An iteration was run."""
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
        """A block was reconstructed, or taken over from an earlier run."""
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


_APART = ("iterations", "importance", "seed")
