"""Several inputs of a model in one tensor, which is how images travel from their source to the graph."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from autoq.errors import ModelError


@dataclass(frozen=True)
class InputLayout:
    """Where the inputs of one image lie in a vector.

    A model of several inputs takes one tensor (N, :attr:`size`) and takes it apart itself, so that whatever belongs to
    an image goes with it: through subsets, batches, fingerprints, workers and exported files.

    >>> layout = InputLayout(((3, 4, 4), (10, 2)))
    >>> packed = layout.pack(torch.zeros(5, 3, 4, 4), torch.ones(5, 10, 2))
    >>> packed.shape
    torch.Size([5, 68])
    >>> [tuple(part.shape) for part in layout.unpack(packed)]
    [(5, 3, 4, 4), (5, 10, 2)]

    Attributes:
        shapes: of each input, without the axis of the batch.
    """

    shapes: tuple[tuple[int, ...], ...]

    @property
    def sizes(self) -> tuple[int, ...]:
        """Number of elements of each input."""
        return tuple(math.prod(shape) for shape in self.shapes)

    @property
    def size(self) -> int:
        """Number of elements of all inputs of one image."""
        return sum(self.sizes)

    def pack(self, *inputs: Tensor) -> Tensor:
        """Return one tensor (N, size), of the type of the first input, of inputs of shape (N, *shape).

        Raises:
            ModelError: the inputs are not of these shapes.
        """
        found = [tuple(each.shape[1:]) for each in inputs]
        if found != list(self.shapes) or len({len(each) for each in inputs}) != 1:
            wanted = ", ".join(f"(N, {', '.join(map(str, shape))})" for shape in self.shapes)
            raise ModelError(
                f"inputs have shapes {', '.join(str(tuple(each.shape)) for each in inputs)}: give {wanted}"
            )
        return torch.cat([each.flatten(1).to(inputs[0]) for each in inputs], 1)

    def unpack(self, packed: Tensor) -> Sequence[Tensor]:
        """Return the inputs, of shape (N, *shape), of a tensor (N, size)."""
        ends = [0]
        for size in self.sizes:
            ends.append(ends[-1] + size)
        parts = (packed[:, start:end] for start, end in pairwise(ends))
        return [part.reshape(-1, *shape) for part, shape in zip(parts, self.shapes, strict=True)]
