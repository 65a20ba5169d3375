"""What computed a tensor, seen through operations that only move or scale values."""

from __future__ import annotations

from torch import fx

from autoq.graph.nodes import COPIES, PADS, is_view, op_name
from autoq.graph.sites import Producer

_PRODUCERS: dict[str, Producer] = {
    "layer_norm": "layer_norm",
    "softmax": "softmax",
    "_softmax": "softmax",
    "gelu": "gelu",
    "relu": "relu",
    "relu_": "relu",
}
_SCALINGS = {"mul", "div", "mul_", "div_"}


def find_producer(node: fx.Node) -> Producer:
    """Walk back from ``node`` through views, permutes, scalings and dropout to what computed the values."""
    seen: set[fx.Node] = set()
    while node not in seen:
        seen.add(node)
        name = op_name(node)
        if name in _PRODUCERS:
            return _PRODUCERS[name]
        if name in ("cat", "stack"):
            kinds = {find_producer(part) for part in node.args[0]}  # type: ignore[arg-type, union-attr]
            return kinds.pop() if len(kinds) == 1 else "other"
        scaled = _scaled(node)
        if scaled is None and not (is_view(node) or name in COPIES | PADS):
            return "other"
        node = scaled or node.args[0]  # type: ignore[assignment]
    return "other"


def _scaled(node: fx.Node) -> fx.Node | None:
    """What is multiplied or divided by a number or a parameter here, or None."""
    if op_name(node) not in _SCALINGS:
        return None
    left, right = node.args[:2]
    if isinstance(left, fx.Node) and not _is_tensor_of_images(right):
        return left
    is_product = op_name(node).startswith("mul")
    return right if is_product and isinstance(right, fx.Node) and not _is_tensor_of_images(left) else None


def _is_tensor_of_images(argument: object) -> bool:
    return isinstance(argument, fx.Node) and argument.op != "get_attr"
