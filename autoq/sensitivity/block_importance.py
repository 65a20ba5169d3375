"""How important each element of every block's output is, and where its channels and positions lie."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from autoq.errors import CalibrationError
from autoq.graph.blocks import Block, choose_blocks, find_blocks
from autoq.graph.insert import QuantizedModel
from autoq.sensitivity.perturbation_hessian import PerturbationSettings, stage_hessians
from autoq.tasks import CLASSIFICATION, BaseTask

TOP_SHARE = 0.01
"""Of elements, for :attr:`Summary.top_share`."""
_MOST_EXTRA_TOKENS = 5
"""Class, distillation and register tokens before a grid of image tokens."""


@dataclass(frozen=True)
class Summary:
    """H of one output in a few numbers, in nats per squared unit.

    Attributes:
        mean: of all elements.
        median: of all elements.
        low: 1st percentile.
        high: 99th percentile.
        max: largest element.
        top_share: share of the sum, between 0 and 1, that the top 1 % of elements hold, at least one of them; 0 where
            all elements are zero.
    """

    mean: float
    median: float
    low: float
    high: float
    max: float
    top_share: float


@dataclass(frozen=True)
class OutputImportance:
    """The average perturbation Hessian H of one tensor that leaves a block.

    Attributes:
        name: ``BLOCK``, or ``BLOCK.ENTRY`` if several tensors leave the block.
        block: name of the block.
        entry: index in the state after the block.
        hessian: H in nats per squared unit, float32 on the CPU, of shape (instances, ...) as in ``stage_hessians``.
        channel_axis: axis of ``hessian`` along which channels (or classes) lie; all others are positions.
        grid: rows and columns of positions; None if they do not form an image. There may be positions before those of
            the grid (a class token).
        is_logits: whether the channels are the model's classes.
    """

    name: str
    block: str
    entry: int
    hessian: Tensor
    channel_axis: int
    grid: tuple[int, int] | None = None
    is_logits: bool = False

    @cached_property
    def by_position(self) -> npt.NDArray[np.float64]:
        """Mean over channels, of shape (positions,), in row-major order."""
        return np.asarray(self._rows.mean(1))

    @cached_property
    def by_channel(self) -> npt.NDArray[np.float64]:
        """Mean over positions, of shape (channels,)."""
        return np.asarray(self._rows.mean(0))

    @property
    def extra_tokens(self) -> int:
        """Positions before those of the grid."""
        return 0 if self.grid is None else len(self.by_position) - math.prod(self.grid)

    @cached_property
    def summary(self) -> Summary:
        """H in a few numbers."""
        values = self._rows.ravel()
        total = values.sum()
        top = np.sort(values)[-math.ceil(TOP_SHARE * len(values)) :].sum()
        low, median, high = np.percentile(values, (1, 50, 99))
        share = float(top / total) if total > 0 else 0.0
        return Summary(float(values.mean()), float(median), float(low), float(high), float(values.max()), share)

    @cached_property
    def _rows(self) -> npt.NDArray[np.float64]:
        """H as (positions, channels)."""
        rows = self.hessian.double().movedim(self.channel_axis, -1)  # (instances, ..., channels)
        result: npt.NDArray[np.float64] = rows.reshape(-1, rows.shape[-1]).numpy()
        return result


def measure_importance(
    model: QuantizedModel,
    batches: Iterable[Tensor],
    settings: PerturbationSettings,
    blocks: Collection[str] | None = None,
    progress: Callable[[int], None] | None = None,
    *,
    task: BaseTask = CLASSIFICATION,
) -> tuple[OutputImportance, ...]:
    """Measure the average perturbation Hessian (APHQ-ViT; Wu et al., CVPR 2025) of what leaves each block.

    Blocks are those of ``find_blocks``: patch embedding, transformer blocks, patch merging, head.

    Args:
        model: its slots are emptied.
        batches: images of shape (N, C, H, W) on the model's device, iterated over once.
        settings: how outputs are perturbed.
        blocks: names of those wanted; None: all.
        progress: called with the number of images after each few of them.
        task: says what the model's output means; fitted.

    Returns:
        One for each tensor that leaves a block and follows the image, in execution order.

    Raises:
        RecipeError: there is no such block.
        CalibrationError: there is no image, an output has not its images along the leading axis, or full precision or
            its derivatives are not finite.
    """
    every = find_blocks(model)
    wanted = choose_blocks(every, blocks)
    batches = iter(batches)
    first = next(batches, None)
    if first is None or not len(first):
        raise CalibrationError("there are no calibration images")
    classes = _classes(model, first[:1], task)
    hessians = stage_hessians(
        model, chain([first], batches), [block.last for block in wanted], settings, progress, task=task
    )
    grids: list[tuple[int, int]] = []
    found: list[OutputImportance] = []
    for block in wanted:
        entries = {leaf: value.cpu() for leaf, value in enumerate(hessians[block.last]) if value is not None}
        logits = classes if block == every[-1] else ()
        for leaf, hessian in entries.items():
            axis = _channel_axis(hessian.shape, _widths(model, block))
            grid = _grid(hessian.shape, axis, grids)
            if grid is not None:
                grids.append(grid)
            name = block.name if len(entries) == 1 else f"{block.name}.{leaf}"
            found.append(OutputImportance(name, block.name, leaf, hessian, axis, grid, leaf in logits))
    return tuple(found)


def _classes(model: QuantizedModel, image: Tensor, task: BaseTask) -> tuple[int, ...]:
    """Return the positions of the model's outputs whose channels are classes."""
    if task.labels != "class":
        return ()
    with torch.no_grad():
        leaves = model.run_stages(range(len(model.stages)), (image,))
    return task.select(leaves, model.output_names)


def _widths(model: QuantizedModel, block: Block) -> set[int]:
    """Return the numbers of output channels of the block's weight layers."""
    sites = (model.traced.sites_by_name[name] for name in block.sites)
    return {operand.shape[0] for site in sites if site.macs for operand in site.operands if operand.is_weight}


def _channel_axis(shape: Sequence[int], widths: Collection[int]) -> int:
    """Return the last axis, or axis 1 of (instances, channels, rows, columns)."""
    if len(shape) != 4:
        return len(shape) - 1
    first, last = shape[1] in widths, shape[3] in widths
    if first != last:
        return 1 if first else 3
    return 3 if shape[1] == shape[2] != shape[3] else 1


def _grid(shape: Sequence[int], channel_axis: int, known: Sequence[tuple[int, int]]) -> tuple[int, int] | None:
    """Return rows and columns of one image's positions; None for windows and for what is no image.

    A sequence of tokens takes those of the nearest earlier output that they fit.
    """
    if shape[0] != 1:  # windows
        return None
    positions = [size for axis, size in enumerate(shape) if axis not in (0, channel_axis)]
    if len(positions) == 2:
        return positions[0], positions[1]
    if len(positions) != 1 or positions[0] < 4:
        return None
    side = math.isqrt(positions[0])
    for grid in (*reversed(known), (side, side)):
        if 0 <= positions[0] - math.prod(grid) <= _MOST_EXTRA_TOKENS:
            return grid
    return None
