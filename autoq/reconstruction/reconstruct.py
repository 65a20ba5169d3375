"""Reconstruct a quantized model block by block, in order, each on the outputs of the quantized blocks before it."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from autoq.errors import CalibrationError
from autoq.graph.blocks import Block, choose_blocks, find_blocks
from autoq.graph.insert import QuantizedModel
from autoq.reconstruction.block_folder import BlockFolder, BlockReport
from autoq.reconstruction.losses import BlockLoss, PerImageSquaredError, PredictionDivergence, WeightedSquaredError
from autoq.reconstruction.settings import ReconstructionSettings
from autoq.reconstruction.squared_gradients import squared_gradients
from autoq.reconstruction.states import StateStore, find_layouts
from autoq.reconstruction.training import BlockData, train_block
from autoq.scoring.outputs import fitted_task
from autoq.scoring.solved_operands import SolvedOperands
from autoq.sensitivity.perturbation_hessian import PerturbationSettings, stage_hessians
from autoq.tasks import CLASSIFICATION, BaseTask


@dataclass(frozen=True)
class Iteration:
    """Progress of a reconstruction.

    Attributes:
        block: name of the block.
        number: of the block among those that are reconstructed, from 1.
        blocks: how many those are.
        done: iterations of this block.
        iterations: how many it will have.
        loss: of the last batch, relative to the calibrated block's over all images.
    """

    block: str
    number: int
    blocks: int
    done: int
    iterations: int
    loss: float


def reconstruct(
    model: QuantizedModel,
    calibrated: SolvedOperands,
    images: Tensor,
    settings: ReconstructionSettings,
    *,
    blocks: Collection[str] | None = None,
    operations: Mapping[str, nn.Module] | None = None,
    task: BaseTask = CLASSIFICATION,
    directory: str | os.PathLike[str] | None = None,
    identity: Mapping[str, Any] | None = None,
    on_disk: bool = False,
    targets: QuantizedModel | None = None,
    on_iteration: Callable[[Iteration], None] | None = None,
    on_block: Callable[[BlockReport], None] | None = None,
) -> tuple[SolvedOperands, tuple[BlockReport, ...]]:
    """Learn the rounding of weights and the scales of activations of a quantized model.

    Blocks are taken in order; a block's input is that of the quantized blocks before it, as reconstructed, and its
    target what full precision makes of its own input. Memory holds, for all images, the activations at three cuts of
    the model (four with ``brecq``), and what one block needs for a batch.

    Args:
        model: in full precision where its slots are empty; they are emptied.
        calibrated: quantizers of all operands that are quantized.
        images: of shape (N, C, H, W).
        settings: how blocks are trained.
        blocks: names of those to reconstruct (``find_blocks``); None: all. The others stay as calibrated.
        operations: integer LayerNorms and softmaxes of the quantized model, by site; scales are not learned then, since
            those rest on them.
        task: says what the model's output means, by which the last block learns; fitted to full precision here, if
            that has not been done.
        directory: where each block's learned operands are written as soon as they are known; a later call resumes
            there, with the result of an uninterrupted one.
        identity: what the model, its quantizers and the images are; decides, with the settings, whether what is kept
            there is used.
        on_disk: keep activations in temporary files in ``directory`` rather than in memory.
        targets: the model whose full precision is aimed at, of the same stages; None: ``model`` itself.
        on_iteration: called after each iteration.
        on_block: called after each block, those read from ``directory`` included.

    Returns:
        All operands, and a report of each block.

    Raises:
        RecipeError: there is no such block.
        TaskError: the model has no such output, or the task cannot be fitted to it.
        CalibrationError: full precision is not finite, the model's activations cannot be told apart by image, or there
            are no images.
    """
    if not len(images):
        raise CalibrationError("there are no calibration images to reconstruct on")
    known = find_blocks(model)
    chosen = choose_blocks(known, blocks)
    task = fitted_task(task, model, torch.split(images, settings.batch))
    folder = None if directory is None else Path(directory)
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
    aim = model if targets is None else targets
    run = _Run(model, calibrated, images, settings, operations or {}, task, folder, identity or {}, on_disk, aim)
    reports: list[BlockReport] = []
    with _frozen(model), _frozen(aim):
        weights = _hessians(aim, chosen, images, settings, task)
        for block in known[: known.index(chosen[-1]) + 1] if chosen else ():
            if block not in chosen:
                run.pass_(block)
                continue
            progress = _block_progress(block, len(reports) + 1, len(chosen), settings.iterations, on_iteration)
            reports.append(run.reconstruct_(block, weights.get(block.name), progress))
            if on_block is not None:
                on_block(reports[-1])
    model.remove_()
    return run.operands, tuple(reports)


def _block_progress(
    block: Block, number: int, blocks: int, iterations: int, on_iteration: Callable[[Iteration], None] | None
) -> Callable[[int, float], None]:
    """Make the callback that reports the iterations of block ``number`` of ``blocks``."""

    def progress(done: int, loss: float) -> None:
        if on_iteration is not None:
            on_iteration(Iteration(block.name, number, blocks, done, iterations, loss))

    return progress


class _Run:
    """The states of all images before the next block, in full precision and quantized, and the learned operands."""

    def __init__(
        self,
        model: QuantizedModel,
        calibrated: SolvedOperands,
        images: Tensor,
        settings: ReconstructionSettings,
        operations: Mapping[str, nn.Module],
        task: BaseTask,
        folder: Path | None,
        identity: Mapping[str, Any],
        on_disk: bool,
        targets: QuantizedModel,
    ) -> None:
        model.remove_()
        targets.remove_()
        self._targets = targets
        self._model, self.operands, self._settings = model, calibrated, settings
        self._operations, self._task = operations, task
        described = {**identity, "settings": asdict(settings), "images": len(images)}
        self._kept = None if folder is None else BlockFolder(folder, described)
        self._layouts = find_layouts(model, images[:1])
        self._device = images.device
        self._file_folder = folder if on_disk else None
        self._images = len(images)
        self._full = self._quantized = StateStore.of_images(self._layouts[0], images)

    def pass_(self, block: Block) -> None:
        """Advance both states past a block that stays as calibrated."""
        target = self._full_precision(block)
        self._quantized = self._outputs(block, self._quantized, self.operands.of_sites(block.sites))
        self._full = target

    def reconstruct_(
        self, block: Block, weights: tuple[Tensor | None, ...] | None, progress: Callable[[int, float], None]
    ) -> BlockReport:
        """Learn a block, or load what an earlier run has learned of it, and advance both states past it."""
        target = self._full_precision(block)
        own = self.operands.of_sites(block.sites)
        found = None if self._kept is None else self._kept.read(block, self._model, self.operands)
        learned, report = found or self._learn(block, own, target, weights, progress)
        self.operands = self.operands | learned
        self._quantized = self._outputs(block, self._quantized, learned)
        self._full = target
        return report

    def _learn(
        self,
        block: Block,
        own: SolvedOperands,
        target: StateStore,
        weights: tuple[Tensor | None, ...] | None,
        progress: Callable[[int, float], None],
    ) -> tuple[SolvedOperands, BlockReport]:
        started = time.monotonic()
        loss, name = self._loss(block, own, target, weights)
        before = self._mean_loss(block, own, target, loss)
        learned, iterations, after = own, 0, before
        if before > 0:
            data = BlockData(self._full, self._quantized, target)
            self._enter(block, own)
            trained = train_block(
                self._model, block, own, data, loss, before, self._settings, not self._operations, progress
            )
            learned = own | SolvedOperands(trained.quantizers, trained.codes)
            iterations, after = self._settings.iterations, self._mean_loss(block, learned, target, loss)
        kept = after < before or self._settings.is_published
        if not kept:
            learned = own
        report = BlockReport(block.name, name, before, after, kept, iterations, time.monotonic() - started)
        if self._kept is not None:
            self._kept.write(block, learned, report, self.operands)
        return learned, report

    def _loss(
        self, block: Block, own: SolvedOperands, target: StateStore, weights: tuple[Tensor | None, ...] | None
    ) -> tuple[BlockLoss, str]:
        """Return a block's loss and its name; the last block's is the divergence of the predictions."""
        layout = self._layouts[block.last + 1]
        if block.last == len(self._model.stages) - 1:
            return PredictionDivergence(self._task, self._model.output_names), "kl"
        if self._settings.importance == "brecq":
            self._enter(block, own)
            weights_of_images = squared_gradients(self._model, block, self._quantized, target, self._task)
            return PerImageSquaredError(layout, weights_of_images), "brecq"
        return WeightedSquaredError(layout, weights), self._settings.importance

    def _mean_loss(self, block: Block, operands: SolvedOperands, target: StateStore, loss: BlockLoss) -> float:
        self._enter(block, operands)
        total = 0.0
        with torch.no_grad():
            for images in self._slices():
                output = self._model.run_stages(block.stages, self._quantized.get(images, self._device))
                total += float(loss(output, target.get(images, self._device), images)) * (images.stop - images.start)
        if not total < float("inf"):
            raise CalibrationError(
                f"block {block.name!r} gives NaN or infinite values: check the recipe and the weights"
            )
        return total / self._images

    def _full_precision(self, block: Block) -> StateStore:
        """Run a block in full precision on the states of all images."""
        self._targets.remove_()
        return self._advanced(self._targets, block, self._full)

    def _outputs(self, block: Block, inputs: StateStore, operands: SolvedOperands) -> StateStore:
        """Run a quantized block on the states of all images."""
        self._enter(block, operands)
        outputs = self._advanced(self._model, block, inputs)
        self._model.remove_()
        return outputs

    def _advanced(self, model: QuantizedModel, block: Block, inputs: StateStore) -> StateStore:
        outputs = StateStore(self._layouts[block.last + 1], self._images, self._file_folder)
        with torch.no_grad():
            for images in self._slices():
                outputs.put_(images.start, model.run_stages(block.stages, inputs.get(images, self._device)))
        return outputs

    def _enter(self, block: Block, operands: SolvedOperands) -> None:
        """Fill a block's slots; all others are empty."""
        self._model.remove_()
        operands.insert_(self._model)
        self._model.replace_({site: each for site, each in self._operations.items() if site in block.sites})

    def _slices(self) -> Iterator[slice]:
        for start in range(0, self._images, self._settings.batch):
            yield slice(start, min(start + self._settings.batch, self._images))


def _hessians(
    model: QuantizedModel, blocks: Collection[Block], images: Tensor, settings: ReconstructionSettings, task: BaseTask
) -> dict[str, tuple[Tensor | None, ...]]:
    """Return the average perturbation Hessian of each block's output, without the last, whose loss is another."""
    stages = {block.name: block.last for block in blocks if block.last < len(model.stages) - 1}
    if settings.importance != "aph" or not stages:
        return {}
    batches = torch.split(images[: settings.importance_images], settings.batch)
    found = stage_hessians(model, batches, list(stages.values()), PerturbationSettings(seed=settings.seed), task=task)
    return {name: found[stage] for name, stage in stages.items()}


@contextmanager
def _frozen(model: QuantizedModel) -> Iterator[None]:
    """Exclude the model's own parameters from derivatives within the block."""
    learned = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for parameter in learned:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in learned:
            parameter.requires_grad_()
