"""Which activations are alive while a model runs: what has to be kept in memory between one operation and the next.

A value is what an operator computes; views and copies of it, its place in a concatenation, and what scaling it by a
number gives (codes stay, the scale of the quantizer changes) are the same elements.
A value that is read once, by an operator that is no product (an activation function, a scaling, an addition, a softmax,
a LayerNorm), is computed as that operator reads it, and is not stored; every other value is, the image included.
Parameters, and what follows from them alone, are not activations.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, fx
from torch.utils import _pytree as pytree

from autoq.graph.find import OperandEdge
from autoq.graph.nodes import (
    PRODUCTS,
    TRANSPOSED_LAYERS,
    UNSUPPORTED_PRODUCTS,
    WEIGHT_LAYERS,
    is_cast,
    is_move,
    op_name,
)
from autoq.graph.probing import BaseProbe, argument_places, numbered_like, reads_shape

_PRODUCTS = PRODUCTS | WEIGHT_LAYERS | TRANSPOSED_LAYERS | UNSUPPORTED_PRODUCTS
_JOINS = ("cat", "concat", "stack")
_CONSTANT = -1
"""Number of an element that follows from parameters alone."""

Reader = tuple[str, str] | None
"""(site, operand) of an operand that can be quantized; None: something that reads floating point."""


@dataclass(frozen=True)
class LiveRegion:
    """Elements of one value that are read by the same readers.

    Attributes:
        elements: how many, per image.
        readers: who reads them.
    """

    elements: int
    readers: tuple[Reader, ...]


@dataclass(frozen=True)
class LiveSets:
    """What is alive at each step of a model.

    Attributes:
        regions: of all stored values.
        steps: numbers of the regions that are alive while a step runs, what it writes included; steps at which no more
            is alive than at another are left out.
    """

    regions: tuple[LiveRegion, ...]
    steps: tuple[tuple[int, ...], ...]


def find_live_sets(graph_module: fx.GraphModule, edges: Mapping[tuple[str, str], OperandEdge]) -> LiveSets:
    """Find what is alive at each step, by running the model once on an image of zeros.

    Args:
        graph_module: a traced model.
        edges: places of its operands.
    """
    schedule = _Schedule(graph_module.graph)
    probe = _ReaderProbe(graph_module, {(e.node, e.index, e.item): key for key, e in edges.items()})
    probe.run_on_zeros()
    regions: list[LiveRegion] = []
    spans: list[tuple[int, int]] = []
    for value in probe.values:
        if value.node in schedule.fused:
            continue
        written = schedule.step(value.node)
        for elements, readers in value.regions():
            regions.append(LiveRegion(elements, tuple(dict.fromkeys(reader for reader, _ in readers))))
            spans.append((written, max(schedule.step(node) for _, node in readers)))
    steps = [
        frozenset(i for i, (first, last) in enumerate(spans) if first <= step <= last)
        for step in sorted({step for span in spans for step in span})
    ]
    largest = [step for step in dict.fromkeys(steps) if not any(step < other for other in steps)]
    return LiveSets(tuple(regions), tuple(tuple(sorted(step)) for step in largest))


class _Schedule:
    """When each node runs, and which are computed as another reads them."""

    def __init__(self, graph: fx.Graph) -> None:
        self._position = {node: index for index, node in enumerate(graph.nodes)}
        self.fused: dict[fx.Node, fx.Node] = {}
        for node in graph.nodes:
            readers = set(_readers(node)) if node.op == "call_function" and not _passes_on(node) else set()
            if len(readers) == 1:
                (reader,) = readers
                if reader.op == "call_function" and op_name(reader) not in _PRODUCTS:
                    self.fused[node] = reader

    def step(self, node: fx.Node) -> int:
        """Return the number of the step in which a node runs."""
        while node in self.fused:
            node = self.fused[node]
        return self._position[node]


def _passes_on(node: fx.Node) -> bool:
    return is_move(node) or op_name(node) in _JOINS or _is_scaling(node)


def _is_scaling(node: fx.Node) -> bool:
    return op_name(node) in ("mul", "div") and isinstance(node.args[1], int | float)


def _readers(node: fx.Node) -> Iterator[fx.Node]:
    """List the nodes that read the values of a node, wherever these are moved to."""
    for user in node.users:
        if _passes_on(user):
            yield from _readers(user)
        elif not all(reads_shape(user, index) for index, _ in argument_places(user, node)) or not list(
            argument_places(user, node)
        ):
            yield user


class _Value:
    """The elements that one node computes, and who reads which."""

    def __init__(self, node: fx.Node, start: int, size: int) -> None:
        self.node, self.start, self.size = node, start, size
        self.read: list[tuple[Reader, fx.Node, NDArray[np.bool_]]] = []

    def regions(self) -> Iterator[tuple[int, list[tuple[Reader, fx.Node]]]]:
        """List numbers of elements with the same readers, and these; elements that nobody reads are left out."""
        patterns: dict[bytes, tuple[int, NDArray[np.bool_]]] = {}
        remaining = np.ones(self.size, dtype=bool)
        while len(left := np.flatnonzero(remaining)):
            pattern = np.array([mask[left[0]] for _, _, mask in self.read], dtype=bool)
            alike = remaining.copy()
            for (_, _, mask), reads in zip(self.read, pattern, strict=True):
                alike &= mask == reads
            patterns[pattern.tobytes()] = int(alike.sum()), pattern
            remaining &= ~alike
        for count, pattern in patterns.values():
            readers = [(reader, node) for (reader, node, _), reads in zip(self.read, pattern, strict=True) if reads]
            if readers:
                yield count, readers


class _ReaderProbe(BaseProbe):
    """Numbers all elements that operators compute, sends the numbers along moves, and notes who reads them.

    Attributes:
        values: what is computed, in execution order.
    """

    def __init__(self, graph_module: fx.GraphModule, slots: Mapping[tuple[str, int, int | None], Reader]) -> None:
        super().__init__(graph_module)
        self.values: list[_Value] = []
        self._slots, self._count = slots, 0
        self._numbers: dict[fx.Node, Any] = {}

    def run_node(self, n: fx.Node) -> Any:
        """Run a node, and beside it the same move of the numbers."""
        result = super().run_node(n)
        sources = [source for source in n.all_input_nodes if source in self._numbers]
        if n.op == "get_attr":
            self._numbers[n] = _constant(result)
        elif sources and (n.name, 0, None) in self._slots and is_move(n):  # hands out an output of the model
            self._note(sources[0], n)
        elif sources and (is_move(n) or _is_scaling(n)):
            numbers = self._numbers[n.args[0]]  # type: ignore[index]
            self._numbers[n] = numbers if is_cast(n) or _is_scaling(n) else self.move(n, numbers)
        elif sources and op_name(n) in _JOINS:
            parts = [self._numbers[part] for part in n.args[0]]  # type: ignore[union-attr, index]
            self._numbers[n] = n.target(parts, *n.args[1:], **n.kwargs)  # type: ignore[operator]
        elif any(isinstance(leaf, Tensor) for leaf in pytree.tree_leaves(result)):
            self._compute(n, result, sources)
        for source in sources:
            if source in self.user_to_last_uses.get(n, ()):
                del self._numbers[source]
        return result

    def _compute(self, n: fx.Node, result: Any, sources: list[fx.Node]) -> None:
        """Note what a node reads, and number what it computes unless that follows from parameters alone."""
        read = [self._note(source, n) for source in sources]
        if n.op == "output":
            return
        start = self._count
        is_activation = any(read) or n.op == "placeholder"
        self._numbers[n] = pytree.tree_map_only(Tensor, self._numbered if is_activation else _constant, result)
        if is_activation:
            self.values.append(_Value(n, start, self._count - start))

    def _note(self, source: fx.Node, n: fx.Node) -> bool:
        """Note that a node reads the value of another; whether that has elements that depend on the image."""
        leaves = [leaf for leaf in pytree.tree_leaves(self._numbers[source]) if isinstance(leaf, Tensor)]
        numbers = torch.cat([leaf.reshape(-1) for leaf in leaves]).cpu().numpy()
        numbers = numbers[numbers > _CONSTANT]
        if not len(numbers):
            return False
        places = list(argument_places(n, source))
        reading = [place for place in places if not reads_shape(n, place[0])]
        if places and not reading:
            return True
        readers = {self._slots.get((n.name, *place)) for place in reading} or {None}
        first = int(numbers.min())
        found = np.zeros(int(numbers.max()) + 1 - first, dtype=bool)
        found[numbers - first] = True
        for value in self.values:
            low, high = max(value.start, first), min(value.start + value.size, first + len(found))
            if low < high and found[low - first : high - first].any():
                mask = np.zeros(value.size, dtype=bool)
                mask[low - value.start : high - value.start] = found[low - first : high - first]
                value.read += [(reader, n, mask) for reader in readers]
        return True

    def _numbered(self, x: Tensor) -> Tensor:
        """Return new numbers in place of the elements of a tensor."""
        numbers = torch.arange(self._count, self._count + x.numel(), device=x.device).reshape(x.shape)
        self._count += x.numel()
        return numbered_like(x, numbers)


def _constant(x: Tensor) -> Tensor:
    return numbered_like(x, torch.full((), _CONSTANT, device=x.device))
