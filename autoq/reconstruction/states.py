"""States of a model between two blocks, for many images: in memory, or in a file."""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Self

import numpy as np
import torch
from torch import Tensor

from autoq.errors import CalibrationError
from autoq.graph.insert import QuantizedModel
from autoq.graph.stages import State


@dataclass(frozen=True)
class Entry:
    """How an entry of a state depends on the number of images N.

    Attributes:
        kind: ``images``, a tensor with ``per_image`` rows for each image; ``size``, a number linear in N; or
            ``constant``, the same for all images.
        per_image: rows, or how much the number grows, with each image.
        start: of a size, its value at N = 0.
        shape: of one image's rows, of shape (per_image, ...).
        dtype: of the tensor.
        value: of a constant.
    """

    kind: Literal["images", "size", "constant"]
    per_image: int = 0
    start: int = 0
    shape: tuple[int, ...] = ()
    dtype: torch.dtype = torch.float32
    value: object = None

    @property
    def is_learned_from(self) -> bool:
        """Whether errors of the entry can be differentiated."""
        return self.kind == "images" and self.dtype.is_floating_point


def find_layouts(model: QuantizedModel, image: Tensor) -> list[tuple[Entry, ...]]:
    """Find the layout of the states before each stage and after the last, by running two and three images.

    Args:
        model: run as it stands.
        image: of shape (1, C, H, W).

    Raises:
        CalibrationError: a tensor's leading axis does not hold one image after the other.
    """
    two, three = (torch.cat([image] * count) for count in (2, 3))
    states: list[tuple[State, State]] = [((two,), (three,))]
    with torch.no_grad():
        for index in range(len(model.stages)):
            before = states[-1]
            states.append((model.run_stage(index, _copied(before[0])), model.run_stage(index, _copied(before[1]))))
    return [
        tuple(_entry(a, b, f"entry {leaf} before stage {index}") for leaf, (a, b) in enumerate(zip(*pair, strict=True)))
        for index, pair in enumerate(states)
    ]


def _entry(two: object, three: object, name: str) -> Entry:
    if isinstance(two, int) and isinstance(three, int):
        return Entry("size", three - two, two - 2 * (three - two))
    if not (isinstance(two, Tensor) and isinstance(three, Tensor)):
        return Entry("constant", value=two)
    if two.shape == three.shape:
        return Entry("constant", value=two)
    rows = three.shape[0] - two.shape[0] if two.ndim else 0
    if two.shape[1:] != three.shape[1:] or two.shape[0] != 2 * rows:
        raise CalibrationError(
            f"{name} has shapes {tuple(two.shape)} and {tuple(three.shape)} for 2 and 3 images: its leading axis does "
            "not hold one image after the other, so this model cannot be reconstructed"
        )
    return Entry("images", rows, shape=(rows, *two.shape[1:]), dtype=two.dtype)


def _copied(state: State) -> State:
    """Copy the tensors of a state: some models overwrite their input."""
    return tuple(value.clone() if isinstance(value, Tensor) else value for value in state)


class StateStore:
    """The state at one cut for all images.

    Attributes:
        layout: of the state.
        images: how many it has room for.
    """

    def __init__(self, layout: Sequence[Entry], images: int, folder: Path | None = None) -> None:
        """Allocate the tensors.

        Args:
            layout: of the state.
            images: number of images.
            folder: where a temporary file holds the tensors, deleted with the store; None: in memory.

        Raises:
            OSError: the disk is full.
        """
        self.layout, self.images = tuple(layout), images
        self._folder = folder
        self._tensors = {leaf: self._room(each) for leaf, each in enumerate(layout) if each.kind == "images"}

    @classmethod
    def of_images(cls, layout: Sequence[Entry], images: Tensor) -> Self:
        """Return the state before the first stage; the images, of shape (N, C, H, W), are not copied."""
        store = cls(layout, 0)
        store.images = len(images)
        store._tensors = {0: images.unsqueeze(1)}  # (N, 1, C, H, W)
        return store

    @property
    def bytes(self) -> int:
        """Size of the tensors, in bytes."""
        return sum(tensor.numel() * tensor.element_size() for tensor in self._tensors.values())

    @property
    def leaves(self) -> list[int]:
        """Indices of the entries with a tensor."""
        return list(self._tensors)

    def scale_(self, factor: float) -> None:
        """Multiply all tensors by a factor."""
        for tensor in self._tensors.values():
            tensor.mul_(factor)

    def mean(self) -> float:
        """Return the mean over all elements of all entries whose errors can be differentiated."""
        held = [tensor for leaf, tensor in self._tensors.items() if self.layout[leaf].is_learned_from]
        total = sum(float(image.sum(dtype=torch.float64)) for tensor in held for image in tensor)
        return total / sum(tensor.numel() for tensor in held)

    def put_(self, start: int, state: State) -> None:
        """Keep the state of some images, from number ``start`` on."""
        for leaf, tensor in self._tensors.items():
            value = state[leaf]
            assert isinstance(value, Tensor)  # noqa: S101 - as its layout says
            rows = value.detach().reshape(-1, *tensor.shape[1:])  # (images, per_image, ...)
            tensor[start : start + len(rows)] = rows

    def get(self, chosen: Tensor | slice, device: torch.device) -> State:
        """Return a copy of the state of some images.

        Args:
            chosen: numbers of the images, or a slice with start and stop.
            device: for the tensors.
        """
        count = chosen.stop - chosen.start if isinstance(chosen, slice) else len(chosen)
        return tuple(self._value(leaf, each, chosen, count, device) for leaf, each in enumerate(self.layout))

    def _value(self, leaf: int, entry: Entry, chosen: Tensor | slice, count: int, device: torch.device) -> object:
        if entry.kind == "size":
            return entry.start + count * entry.per_image
        if entry.kind == "constant":
            return entry.value.clone() if isinstance(entry.value, Tensor) else entry.value
        kept = self._tensors[leaf]  # (N, per_image, ...)
        rows = kept[chosen] if isinstance(chosen, slice) else kept.index_select(0, chosen.to(kept.device))
        # (chosen · per_image, ...)
        return rows.flatten(0, 1).to(device, copy=isinstance(chosen, slice))

    def _room(self, entry: Entry) -> Tensor:
        shape = (self.images, *entry.shape)  # (N, per_image, ...)
        if self._folder is None:
            return torch.empty(shape, dtype=entry.dtype)
        dtype = torch.empty(0, dtype=entry.dtype).numpy().dtype
        with tempfile.TemporaryFile(dir=self._folder) as file:  # the mapping outlives it, and its name
            # Writing to a mapping for which the disk has no room kills the process; this raises instead.
            os.posix_fallocate(file.fileno(), 0, max(1, math.prod(shape) * dtype.itemsize))
            return torch.from_numpy(np.memmap(file, dtype=dtype, mode="w+", shape=shape))
