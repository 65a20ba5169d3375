"""Reconstruct a calibrated recipe of an open session and write the result to a directory."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from autoq.events import BlockAdvanced, BlockFinished, PhaseStarted, Progress, ignore
from autoq.files import sha256_hex
from autoq.graph.blocks import choose_blocks, find_blocks
from autoq.graph.insert import QuantizedModel
from autoq.recipe import Recipe, ReconstructionReference
from autoq.reconstruction.block_folder import BlockReport
from autoq.reconstruction.reconstruct import Iteration, reconstruct
from autoq.reconstruction.settings import ReconstructionSettings
from autoq.runs.calibrated import CalibratedRecipe
from autoq.runs.images import CalibrationImages
from autoq.runs.reconstruction_directory import ReconstructionDirectory
from autoq.scoring.solved_operands import read_operands, write_operands
from autoq.scoring.sources import SolvedSource

_APART = ("iterations", "importance", "seed")
"""Settings that a recipe names apart from the others."""


@dataclass(frozen=True)
class ReconstructedRecipe:
    """A recipe that was reconstructed.

    Attributes:
        recipe: as written.
        reports: of each block.
    """

    recipe: Recipe
    reports: tuple[BlockReport, ...]


def reconstruct_calibrated(
    calibrated: CalibratedRecipe,
    images: CalibrationImages,
    out: str | os.PathLike[str],
    training: ReconstructionSettings,
    blocks: Collection[str] | None = None,
    on_disk: bool = False,
    progress: Progress = ignore,
    *,
    targets: QuantizedModel | None = None,
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
        targets: the model that blocks are to come close to; None: the recipe's own in full precision.

    Raises:
        RecipeError: the model has no such block.
        RunDirectoryError: the directory cannot be written or holds something else; nothing there is changed.
        RunError: training failed, or the quantized model produces NaN.
    """
    directory, session, recipe = ReconstructionDirectory(out), calibrated.session, calibrated.recipe
    names = None
    if blocks is not None:
        names = tuple(block.name for block in choose_blocks(find_blocks(session.model), blocks))
    identity = _identity(calibrated, images, training, names)
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
            targets=targets,
        )
        reference = _reference(directory, images, training, names)
    operands = read_operands(directory.operands, session.model).operands
    score = calibrated.score(SolvedSource(session.model, operands), progress)
    cost = session.costs.cost(recipe.sites).record()
    finished = recipe.model_copy(update={"operands": None, "reconstruction": reference, "score": score, "cost": cost})
    finished.save(directory.recipe)
    directory.remove_blocks()
    return ReconstructedRecipe(finished, directory.read_table())


def _identity(
    calibrated: CalibratedRecipe,
    images: CalibrationImages,
    training: ReconstructionSettings,
    blocks: tuple[str, ...] | None,
) -> dict[str, Any]:
    """Collect all that the result depends on; the directory refuses to go on with another reconstruction."""
    return calibrated.identity(images) | {"blocks": blocks and list(blocks), **asdict(training)}


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
    targets: QuantizedModel | None,
) -> None:
    """Reconstruct block by block, and write what was learned and how it went."""
    session = calibrated.session
    count = len(find_blocks(session.model) if blocks is None else blocks)
    watch = _Watch(count, progress)
    progress(PhaseStarted("reconstruction", count, f"{len(images.tensor)} images of {images.data}"))
    operands, reports = reconstruct(
        session.model,
        calibrated.operands,
        images.tensor,
        training,
        blocks=blocks,
        operations=calibrated.operations(),
        task=session.task,
        directory=directory.blocks,
        identity=identity,
        on_disk=on_disk,
        targets=targets,
        on_iteration=watch.advance,
        on_block=watch.finish,
    )
    write_operands(directory.operands, operands, session.folded, identity)
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
