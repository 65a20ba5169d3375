"""Following the outputs of layers into products of two activations, and the products' results into layers."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, fx

from autoq.calibration.transforms.rewriting import BIAS, WEIGHT, is_constant
from autoq.calibration.transforms.rotation.numbering import number_along
from autoq.calibration.transforms.rotation.spaces import LayerChannels
from autoq.graph.nodes import WEIGHT_LAYERS, is_cast, is_move, op_name
from autoq.graph.probing import BaseProbe, argument_places, numbered_like, reads_shape

_PRODUCTS = {"matmul": (0, 1), "bmm": (0, 1), "baddbmm": (1, 2)}
"""Where a product's operands stand among its arguments."""


@dataclass(frozen=True)
class HeadChannels:
    """The vectors of a product that can be rotated.

    Attributes:
        writers: layers that write them.
        readers: layers that read them in the product's result; none where the product sums over them.
        operands: operands of the product that hold them, and their axes.
    """

    writers: tuple[LayerChannels, ...]
    readers: tuple[LayerChannels, ...]
    operands: tuple[tuple[str, int], ...]


@dataclass(frozen=True, eq=False)
class Channels:
    """Elements that are channels of one node's result, moved and scaled.

    Attributes:
        source: a layer, or a product of two activations.
        numbers: token · channels + channel in place of each value, or several such tensors; tokens of a product's
            result are counted for each head.
        channels: the source's.
    """

    source: fx.Node
    numbers: Any
    channels: int


@dataclass(frozen=True, eq=False)
class Reading:
    """A node that reads channels and does more than to pass them on.

    Attributes:
        node: what reads them.
        argument: at which argument.
        read: the channels.
    """

    node: fx.Node
    argument: int
    read: Channels


class HeadProbe(BaseProbe):
    """Finds vectors of channels whose scalar products with others are all that counts, while it runs on zeros.

    Attributes:
        readings: by source.
        scalings: by source: tables of channels that must make up whole vectors, one of several tables each; of norms
            and of factors that are the same along an axis.
    """

    def __init__(self, graph_module: fx.GraphModule) -> None:
        """Start with no channels."""
        super().__init__(graph_module)
        self.readings: dict[fx.Node, list[Reading]] = {}
        self.scalings: dict[fx.Node, list[list[Tensor]]] = {}
        self._channels: dict[fx.Node, Channels] = {}

    def run_node(self, n: fx.Node) -> Any:
        """Run a node, and see whether it passes channels on, reads them or makes new ones."""
        args, _ = self.fetch_args_kwargs_from_env(n)
        result = super().run_node(n)
        passed = self._pass_on(n, args, result)
        for source in n.all_input_nodes:
            channels = self._channels.get(source)
            if channels is not None and source is not passed:
                self._read(n, source, channels)
        if op_name(n) in WEIGHT_LAYERS:
            self._start(n, args, result)
        elif op_name(n) in ("matmul", "bmm"):  # to which nothing is added
            self._multiply(n, result)
        return result

    def _read(self, n: fx.Node, source: fx.Node, channels: Channels) -> None:
        places = list(argument_places(n, source)) or [(-1, None)]
        for index, _ in places:
            if not reads_shape(n, index):
                self.readings.setdefault(channels.source, []).append(Reading(n, index, channels))

    def _start(self, n: fx.Node, args: Any, result: Tensor) -> None:
        weight = args[WEIGHT]
        parameters = [n.args[WEIGHT], *n.args[BIAS : BIAS + 1]]
        is_whole = weight.shape[1] == args[0].shape[1 - weight.ndim]
        if is_whole and all(parameter is None or is_constant(parameter) for parameter in parameters):
            self._channels[n] = Channels(n, number_along(result, 1 - weight.ndim), weight.shape[0])

    def _pass_on(self, n: fx.Node, args: Any, result: Any) -> fx.Node | None:
        """Note where channels are after a move, a scaling or a norm; return the argument that was understood."""
        source = next((node for node in n.args if isinstance(node, fx.Node) and node in self._channels), None)
        if source is None:
            return None
        channels, first = self._channels[source], source is n.args[0]
        if is_move(n) and first:
            moved = channels.numbers if is_cast(n) else self.move(n, channels.numbers)
            self._channels[n] = replace(channels, numbers=moved)
            return source
        if op_name(n) == "linalg_vector_norm" and first and len(args) > 2 and args[1] == 2 and args[2]:
            self._require_whole(channels, [vectors_along(channels, args[2][0])] if len(args[2]) == 1 else [])
            return source
        if op_name(n) == "mul" or (op_name(n) == "div" and first and not n.kwargs):  # one that does not round
            return source if self._scale(n, source, args[1 if first else 0], result) else None
        return None

    def _scale(self, n: fx.Node, source: fx.Node, factor: Any, result: Tensor) -> bool:
        """Pass on channels that are multiplied by a number, or by what is the same along an axis."""
        channels = self._channels[source]
        if not isinstance(channels.numbers, Tensor):
            return False
        other = next((part for part in n.args[:2] if part is not source), source)
        if isinstance(factor, Tensor):
            if other in self._channels or result.shape != channels.numbers.shape:
                return False
            if factor.numel() > 1:
                wide = factor.expand(result.shape)
                even = [axis for axis in range(-result.ndim, 0) if wide.stride(axis) == 0 or result.shape[axis] == 1]
                self._require_whole(channels, [vectors_along(channels, axis) for axis in even])
        self._channels[n] = replace(channels, numbers=numbered_like(result, channels.numbers))
        return True

    def _require_whole(self, channels: Channels, tables: list[Tensor | None]) -> None:
        found = [table for table in tables if table is not None]
        self.scalings.setdefault(channels.source, []).append(found)

    def _multiply(self, n: fx.Node, result: Tensor) -> None:
        """Let a product's result be channels of its own: those of the operand that its vectors are made of."""
        left, right = n.args[:2]
        for node, kept in ((right, -1), (left, -2)):
            channels = self._channels.get(node)  # type: ignore[arg-type]
            table = None if channels is None else vectors_along(channels, kept)
            if channels is None or table is None or table.shape[1] < 2:
                continue
            heads = _which(_vectors(channels, kept) % channels.channels, table)
            heads = heads.view(*channels.numbers.shape[:-2], -1)  # (..., summed): of one head each
            if not (heads == heads[..., :1]).all():
                continue
            count, width = table.shape
            numbers = number_along(result, kept)
            token, channel = numbers // width, numbers % width
            numbers = numbered_like(result, (token * count + heads[..., :1, None]) * width + channel)
            self._channels[n] = Channels(n, numbers, count * width)
            return


def find_head_space(probe: HeadProbe, product: fx.Node) -> HeadChannels | None:
    """Find the vectors that can be rotated at a product: summed ones (queries, keys), or those it keeps (values).

    Args:
        probe: after its run.
        product: a node of two activations.

    Returns:
        The vectors; None if something else reads them too, or the product is of another kind.
    """
    if op_name(product) not in _PRODUCTS:
        return None
    left, right = _PRODUCTS[op_name(product)]
    queries, keys = _written(probe, product, left, -1), _written(probe, product, right, -2)
    if queries is not None and keys is not None:
        return HeadChannels((queries, keys), (), (("lhs", -1), ("rhs", -2)))
    for operand, index, kept in (("rhs", right, -1), ("lhs", left, -2)):
        values = _written(probe, product, index, kept)
        readings = probe.readings.get(product, [])
        if values is None or not readings:
            continue
        readers = [_columns(probe, reading, values.numbers.shape[1]) for reading in readings]
        if all(layer is not None and layer.numbers.shape == values.numbers.shape for layer in readers):
            found = tuple(layer for layer in readers if layer is not None)
            return HeadChannels((values,), found, ((operand, kept),))
    return None


def vectors_along(channels: Channels, axis: int) -> Tensor | None:
    """List the different vectors of channels that lie along an axis.

    Returns:
        Shape (vectors, width), numbers of channels; None if a vector has channels of several tokens, or a channel is in
        several vectors or at several places of them.
    """
    if not isinstance(channels.numbers, Tensor) or channels.numbers.ndim < 2:
        return None
    vectors = _vectors(channels, axis)
    tokens = vectors // channels.channels
    if not (tokens == tokens[:, :1]).all():
        return None
    vectors = vectors % channels.channels
    first, row = torch.unique(vectors[:, 0], return_inverse=True)
    example = torch.empty_like(first).scatter_(0, row, torch.arange(len(row), device=row.device))
    table = vectors[example]  # (vectors, width), one of each first channel
    is_table = bool((vectors == table[row]).all()) and torch.unique(table).numel() == table.numel()
    return table if is_table else None


def _vectors(channels: Channels, axis: int) -> Tensor:
    """Return numbers of the vectors along an axis, of shape (vectors, width)."""
    numbers: Tensor = channels.numbers
    return numbers.movedim(axis, -1).flatten(0, -2)


def _which(vectors: Tensor, table: Tensor) -> Tensor:
    """Find the row of a table that each vector is, of shape (vectors,); its first channel tells."""
    row = torch.zeros(int(table.max()) + 1, dtype=torch.int64, device=table.device)
    row[table[:, 0]] = torch.arange(len(table), device=table.device)
    return row[vectors[:, 0]]


def _written(probe: HeadProbe, product: fx.Node, index: int, axis: int) -> LayerChannels | None:
    """Find the layer's outputs that an operand's vectors are, if nothing but this product reads them."""
    for source, readings in probe.readings.items():
        own = [reading for reading in readings if reading.node is product and reading.argument == index]
        if not own or op_name(source) not in WEIGHT_LAYERS:
            continue
        table = vectors_along(own[0].read, axis)
        if table is None or table.shape[1] < 2:
            return None
        strangers = [reading for reading in readings if reading is not own[0] and _overlap(reading.read, table)]
        scalings = probe.scalings.get(source, [])
        if strangers or not all(_is_whole(table, tables) for tables in scalings):
            return None
        is_scaled = any(bool(torch.isin(rows, table).any()) for tables in scalings for rows in tables)
        return LayerChannels(source.name, table.cpu(), is_scaled=is_scaled)
    return None


def _overlap(read: Channels, table: Tensor) -> bool:
    parts = [read.numbers] if isinstance(read.numbers, Tensor) else read.numbers
    return any(bool(torch.isin(part % read.channels, table).any()) for part in parts)


def _is_whole(table: Tensor, scaled: Iterable[Tensor]) -> bool:
    """Tell whether scaled vectors are the table's own, or have nothing to do with them, by one of several readings."""
    own = {frozenset(row) for row in table.tolist()}
    channels = frozenset(table.flatten().tolist())
    return any({row for row in map(frozenset, rows.tolist()) if row & channels} <= own for rows in scaled)


def _columns(probe: HeadProbe, reading: Reading, width: int) -> LayerChannels | None:
    """Find the inputs of a layer that are vectors of a product's result, in the order of the product's heads."""
    n, read = reading.node, reading.read
    is_layer = op_name(n) in WEIGHT_LAYERS and reading.argument == 0 and is_constant(n.args[WEIGHT])
    if not (is_layer and isinstance(read.numbers, Tensor)):
        return None
    weight = probe.fetch_attr(str(n.args[WEIGHT].target))  # type: ignore[union-attr]
    entries = _vectors(read, 1 - weight.ndim)  # (tokens, inputs)
    order = (entries[0] % read.channels).argsort()
    in_order = entries[:, order]
    whole = torch.arange(read.channels, device=order.device)
    if weight.shape[1] != len(order) or len(order) != read.channels or not (in_order % read.channels == whole).all():
        return None
    vectors = (in_order // read.channels).view(len(in_order), -1, width)  # (tokens, heads, width)
    return LayerChannels(n.name, order.view(-1, width).cpu()) if (vectors == vectors[..., :1]).all() else None
