"""Losses of a block's output against full precision: weighted squared errors, or the divergence of predictions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import torch
from torch import Tensor

from autoq.graph.stages import State
from autoq.reconstruction.states import Entry, StateStore
from autoq.tasks import BaseTask


class BlockLoss(Protocol):
    """A differentiable loss of a block's output."""

    @property
    def published_factor(self) -> float:
        """What the mean loss is multiplied by in APHQ-ViT's code."""
        ...

    def __call__(self, output: State, target: State, images: Tensor | slice) -> Tensor:
        """Return the mean loss of a batch, a scalar.

        Args:
            output: state after the quantized block; its tensors have shape (N · instances, ...).
            target: state after the block in full precision, of the same shapes.
            images: numbers of the images in the batch.
        """
        ...


class WeightedSquaredError:
    """Mean over elements of (Ô − O)² · H, where the mean of H over elements is one."""

    def __init__(self, layout: Sequence[Entry], weights: Sequence[Tensor | None] | None = None) -> None:
        """Use the same weights for all images.

        Args:
            layout: of the block's output.
            weights: H of one image's entry of the output, as ``stage_hessians`` returns them; None: all ones.
        """
        self._leaves = [leaf for leaf, entry in enumerate(layout) if entry.is_learned_from]
        self._shape = layout[self._leaves[0]].shape if self._leaves else ()  # (per_image, tokens, channels)
        self._weights: dict[int, Tensor] = {}
        if weights is not None:
            found = {leaf: value for leaf in self._leaves if (value := weights[leaf]) is not None}
            self._weights = normalized(found)

    @property
    def published_factor(self) -> float:
        """A tenth of the number of tokens (rows, where states have rows and columns), over which errors are summed."""
        return (self._shape[1] if len(self._shape) > 1 else 1) / 10

    def __call__(self, output: State, target: State, images: Tensor | slice) -> Tensor:
        """Return the mean loss of a batch; see :class:`BlockLoss`."""
        total, elements = None, 0
        for leaf in self._leaves:
            quantized, reference = output[leaf], target[leaf]
            assert isinstance(quantized, Tensor) and isinstance(reference, Tensor)  # noqa: S101, PT018
            squared = (quantized - reference).float().square()  # (N · instances, ...)
            weights = self._weights_of(leaf, images, squared.device)
            if weights is not None:
                # (N, instances, ...); with weights of each image (1, N · instances, ...)
                squared = squared.reshape(-1, *weights.shape) * weights
            total = squared.sum() if total is None else total + squared.sum()
            elements += squared.numel()
        assert total is not None  # noqa: S101 - every block gives a tensor
        return total / elements

    def _weights_of(self, leaf: int, images: Tensor | slice, device: torch.device) -> Tensor | None:  # noqa: ARG002
        weights = self._weights.get(leaf)
        return None if weights is None else weights.to(device)


class PerImageSquaredError(WeightedSquaredError):
    """The same with weights for each image."""

    def __init__(self, layout: Sequence[Entry], weights: StateStore) -> None:
        """Use weights, of the layout of the output, as they are."""
        super().__init__(layout)
        self._store = weights

    def _weights_of(self, leaf: int, images: Tensor | slice, device: torch.device) -> Tensor | None:
        value = self._store.get(images, device)[leaf]
        return value if isinstance(value, Tensor) else None


def normalized(hessians: Mapping[int, Tensor]) -> dict[int, Tensor]:
    """Divide by the common mean of all elements, so that losses of all models and blocks are of one size.

    Ones if all are zero: nothing depends on the output as far as derivatives tell, so that every error counts alike.
    """
    total = sum(float(each.double().sum()) for each in hessians.values())
    mean = total / max(1, sum(each.numel() for each in hessians.values()))
    return {leaf: each / mean if mean > 0 else torch.ones_like(each) for leaf, each in hessians.items()}


class PredictionDivergence:
    """The task's divergence of the model's outputs from full precision, in nats: the loss of the last block."""

    def __init__(self, task: BaseTask, names: Sequence[str] = ()) -> None:
        """Compare what ``task``, which is fitted, says of the model's output, whose tensors have these names."""
        self._task, self._names = task, names

    @property
    def published_factor(self) -> float:
        """One: the divergence of an image as it is."""
        return 1.0

    def __call__(self, output: State, target: State, images: Tensor | slice) -> Tensor:  # noqa: ARG002
        """Return the mean loss of a batch; see :class:`BlockLoss`."""
        return self._task.loss(*(self._task.outputs_of(state, self._names) for state in (output, target)))
