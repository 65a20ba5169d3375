"""Which additions are sites: residual sums, and sums with an embedding of positions."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, fx

from autoq.graph.nodes import PRODUCTS, SOFTMAXES, TRANSPOSED_LAYERS, WEIGHT_LAYERS, is_move, op_name
from autoq.graph.shapes import NodeShape

_PRODUCTS = PRODUCTS | WEIGHT_LAYERS | TRANSPOSED_LAYERS
_READERS = _PRODUCTS | {"layer_norm"}
_ELEMENTWISE = frozenset({"add", "sub", "mul", "div", "masked_fill", "where", "clamp"})


class Sums:
    """The additions of a graph that are sites, by these rules.

    The two summands are activations of which one is computed by a product that the other is not computed by (``x +
    mlp(x)``, ``conv1(x) + conv2(x)``; not the two halves of a rotary embedding, which the same products compute); or an
    activation and a parameter with more than one axis longer than one (an embedding of positions; not a layer's bias).
    The result is read, at once or later, by a product or a LayerNorm: it is not merely part of the output. And it is no
    attention score: it does not reach a softmax through moves and elementwise arithmetic alone, as sums with biases of
    relative positions and with masks do.
    """

    def __init__(self, graph_module: fx.GraphModule, shapes: Mapping[fx.Node, NodeShape]) -> None:
        """Look at each node once.

        Args:
            graph_module: cleaned by ``clean_``.
            shapes: of its nodes.
        """
        self._shapes = shapes
        self._products: dict[fx.Node, int] = {}
        bit = 1
        for node in graph_module.graph.nodes:
            found = 0
            for source in node.all_input_nodes:
                found |= self._products[source]
            if op_name(node) in _PRODUCTS:
                found |= bit
                bit <<= 1
            self._products[node] = found
        self._is_read_on: set[fx.Node] = set()
        self._is_score: set[fx.Node] = set()
        for node in reversed(graph_module.graph.nodes):
            for user in node.users:
                if op_name(user) in _READERS or user in self._is_read_on:
                    self._is_read_on.add(node)
                if op_name(user) in SOFTMAXES or (user in self._is_score and _keeps_elements(user)):
                    self._is_score.add(node)

    def __contains__(self, node: fx.Node) -> bool:
        """Tell whether a node is such an addition."""
        if op_name(node) != "add" or node not in self._is_read_on or node in self._is_score:
            return False
        summands = node.args[:2]
        if not all(isinstance(each, fx.Node) and each in self._shapes and _is_float(each) for each in summands):
            return False
        left, right = summands
        constant = [each for each in summands if self._shapes[each].is_constant]  # type: ignore[index]
        if not constant:
            return self._products[left] != self._products[right]  # type: ignore[index]
        return len(constant) == 1 and self._is_embedding(constant[0])  # type: ignore[arg-type]

    def channel_axis(self, node: fx.Node) -> int:
        """Find the axis of the channels of a sum: that of the layer nearest before it, the last where there is none."""
        queue, seen = [node], set[fx.Node]()
        while queue:
            source = queue.pop(0)
            if source in seen:
                continue
            seen.add(source)
            kind = op_name(source)
            if kind in WEIGHT_LAYERS | TRANSPOSED_LAYERS:
                own = -1 if kind == "linear" else 1 - len(self._shapes[source].two)
                return self._axis_of_length(node, self._shapes[source].two[own], own)
            queue += source.all_input_nodes
        return -1

    def _axis_of_length(self, node: fx.Node, channels: int, own: int) -> int:
        """Return the axis, ``own`` if it can be that, which is as long as there are channels."""
        sizes = self._shapes[node].per_image
        fitting = [
            axis for axis in (own, *range(-1, -len(sizes), -1)) if -axis <= len(sizes) and sizes[axis] == channels
        ]
        return fitting[0] if fitting else -1

    def _is_embedding(self, node: fx.Node) -> bool:
        return node.op == "get_attr" and sum(size > 1 for size in self._shapes[node].two) > 1


def _keeps_elements(node: fx.Node) -> bool:
    return is_move(node) or op_name(node) in _ELEMENTWISE


def _is_float(node: fx.Node) -> bool:
    value = node.meta.get("val")
    return not isinstance(value, Tensor) or value.dtype.is_floating_point
