"""Convolutions as products of vectors: what each output position is multiplied with."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from autoq.graph.insert import QuantizedModel
from autoq.graph.nodes import TRANSPOSED_LAYERS, WEIGHT_LAYERS
from autoq.graph.sites import Site


@dataclass(frozen=True)
class Convolution:
    """What a convolution's operands do not say: stride, padding (before, after) and dilation of each spatial axis."""

    stride: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]
    dilation: tuple[int, ...]
    groups: int = 1

    @classmethod
    def of_arguments(cls, arguments: Sequence[object], kernel: Sequence[int]) -> Convolution:
        """Read the positional arguments of ``aten.conv1d`` to ``conv3d`` and the kernel's size."""
        given = [*arguments, *[None] * 7][3:7]
        stride, dilation = (_each(given[index], 1, len(kernel)) for index in (0, 2))
        if isinstance(given[1], str):
            total = [d * (k - 1) if given[1] == "same" else 0 for d, k in zip(dilation, kernel, strict=True)]
            padding = tuple((t // 2, t - t // 2) for t in total)
        else:
            padding = tuple((p, p) for p in _each(given[1], 0, len(kernel)))
        return cls(stride, padding, dilation, given[3] if isinstance(given[3], int) else 1)

    @property
    def reads_zeros(self) -> bool:
        """Whether some outputs are multiplied with zeros that are no values of the input."""
        return any(map(sum, self.padding))

    def unfold(self, x: Tensor, kernel: Sequence[int]) -> Tensor:
        """Gather what each output position is multiplied with: from (N, C, *size) to (N, positions, C · kernel)."""
        windows = self._windows(x, kernel)
        n = len(kernel)
        order = [0, *range(2, 2 + n), 1, *range(2 + n, 2 + 2 * n)]
        return windows.permute(order).reshape(x.shape[0], math.prod(windows.shape[2 : 2 + n]), -1)

    def parts(self, x: Tensor, kernel: Sequence[int]) -> Iterator[tuple[None, Tensor]]:
        """Yield the only part: all elements of the kernel (None), and what they are multiplied with, as ``unfold``."""
        yield None, self.unfold(x, kernel)

    def _windows(self, x: Tensor, kernel: Sequence[int]) -> Tensor:
        """Return (N, C, *positions, *kernel)."""
        x = functional.pad(x, [amount for pair in reversed(self.padding) for amount in pair])
        for axis, (size, stride, dilation) in enumerate(zip(kernel, self.stride, self.dilation, strict=True), start=2):
            x = x.unfold(axis, dilation * (size - 1) + 1, stride)[..., ::dilation]
        return x


@dataclass(frozen=True)
class TransposedConvolution:
    """What a transposed convolution's operands do not say.

    With stride s an output p of one axis is the sum over inputs q and elements k of the kernel with
    p + padding = s q + dilation k. So each output sees the elements of one residue alone, and those of a residue in
    each axis make up a plain convolution of stride one, whose outputs lie s apart.
    """

    stride: tuple[int, ...]
    padding: tuple[int, ...]
    output_padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int = 1
    reads_zeros: bool = True
    """Most elements of a vector are zeros that are no values of the input."""

    @classmethod
    def of_arguments(cls, arguments: Sequence[object], kernel: Sequence[int]) -> TransposedConvolution:
        """Read the positional arguments of ``aten.conv_transpose2d`` and the kernel's size."""
        given = [*arguments, *[None] * 8]
        stride, padding, output_padding, dilation = (
            _each(given[index], default, len(kernel)) for index, default in ((3, 1), (4, 0), (5, 0), (7, 1))
        )
        return cls(stride, padding, output_padding, dilation, given[6] if isinstance(given[6], int) else 1)

    def unfold(self, x: Tensor, kernel: Sequence[int]) -> Tensor:
        """Gather what output positions are multiplied with: from (N, C, *size) to (N, positions, C · kernel).

        Positions come residue by residue; those that no input reaches are left out, which may be all.
        """
        width = x.shape[1] * math.prod(kernel)
        parts = [x.new_zeros(len(x), 0, width)]
        for elements, vectors in self.parts(x, kernel):
            whole = vectors.new_zeros(*vectors.shape[:2], width)
            whole[..., elements] = vectors
            parts.append(whole)
        return torch.cat(parts, 1)

    def parts(self, x: Tensor, kernel: Sequence[int]) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield, for each residue, the elements of the kernel that outputs see, and what these are multiplied with.

        Yields:
            Indices into C · kernel, of shape (elements,), and vectors, of shape (N, positions, elements).
        """
        axes = [self._residues(axis, x.shape[2 + axis], size) for axis, size in enumerate(kernel)]
        places = torch.arange(x.shape[1] * math.prod(kernel)).view(x.shape[1], *kernel)
        for chosen in itertools.product(*axes):
            convolution = Convolution(
                (1,) * len(kernel),
                tuple(padding for _, padding, _ in chosen),
                tuple(dilation for _, _, dilation in chosen),
            )
            elements = places
            for axis, (taps, _, _) in enumerate(chosen, start=1):
                elements = elements.index_select(axis, torch.tensor(taps))
            vectors = convolution.unfold(x, [len(taps) for taps, _, _ in chosen])
            yield elements.flatten().to(x.device), vectors

    def _residues(self, axis: int, size: int, kernel: int) -> list[tuple[list[int], tuple[int, int], int]]:
        """List the residues of an axis: taps from the last to the first, padding and dilation of their convolution."""
        stride, dilation, before = self.stride[axis], self.dilation[axis], self.padding[axis]
        common = math.gcd(stride, dilation)
        outputs = (size - 1) * stride - 2 * before + dilation * (kernel - 1) + self.output_padding[axis] + 1
        found = []
        for first in range(min(stride // common, kernel)):
            taps = list(range(first, kernel, stride // common))
            # Output p = stride · t − padding + dilation · first sees inputs t, t − spacing, … through taps in order.
            spacing, offset = dilation // common, before - dilation * first
            least, most = -(-offset // stride), (outputs - 1 + offset) // stride
            if most >= least:
                reach = spacing * (len(taps) - 1)
                found.append((taps[::-1], (reach - least, most - size + 1), spacing))
        return found


def convolution_of(model: QuantizedModel, site: Site) -> Convolution | TransposedConvolution | None:
    """Read the geometry of a convolution site, transposed or not; None for other sites."""
    if site.op in TRANSPOSED_LAYERS:
        return TransposedConvolution.of_arguments(model.traced.node(site.name).args, site.operand("weight").shape[2:])
    if site.op not in WEIGHT_LAYERS or site.op == "linear":
        return None
    return Convolution.of_arguments(model.traced.node(site.name).args, site.operand("weight").shape[2:])


def _each(value: object, default: int, count: int) -> tuple[int, ...]:
    """Return one number for each spatial axis."""
    if value is None:
        return (default,) * count
    if isinstance(value, int):
        return (value,) * count
    numbers = tuple(int(entry) for entry in value)  # type: ignore[attr-defined]
    return numbers * count if len(numbers) == 1 else numbers
