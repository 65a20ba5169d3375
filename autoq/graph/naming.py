"""Stable, unique names for nodes: the module path, or what an attention product does."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterable
from typing import Literal

from torch import fx

from autoq.graph.nodes import PRODUCTS, SOFTMAXES, TRANSPOSED_LAYERS, WEIGHT_LAYERS, op_name
from autoq.graph.producers import find_producer

Role = Literal["qk", "av"] | None


class NodeNames:
    """Names nodes of one graph in the order in which they are asked for; the second of a name is called ``name@2``."""

    def __init__(self, graph_module: fx.GraphModule) -> None:
        """Parameters' names are what weight layers are called after."""
        self._taken: Counter[str] = Counter()
        self._parameters = {name for name, _ in graph_module.named_parameters()}

    def name(self, node: fx.Node, kind: str) -> str:
        """Name ``node``: its weight's owner, or its module's path and its role (``qk``, ``av``, operator)."""
        base = self._weight_owner(node) if kind not in PRODUCTS | SOFTMAXES | {"add"} else None
        if base is None:
            path = module_path(node)
            is_own_module = kind in WEIGHT_LAYERS | TRANSPOSED_LAYERS | {"layer_norm"}
            suffix = "" if is_own_module else self.role(node) or kind.strip("_")
            if path.rpartition(".")[2] == suffix:  # an nn.Softmax that is itself called softmax
                suffix = ""
            base = ".".join(part for part in (path, suffix) if part) or kind
        return self._once(base)

    def output(self, leaf: str) -> str:
        """Name an output of the model: ``output``, or ``output.logits`` for a leaf with a name of its own."""
        return self._once(f"output.{leaf}" if leaf else "output")

    def _once(self, base: str) -> str:
        self._taken[base] += 1
        return base if self._taken[base] == 1 else f"{base}@{self._taken[base]}"

    def role(self, node: fx.Node) -> Role:
        """Tell what a product does within its module.

        ``av`` if an operand comes from a softmax, ``qk`` if the result reaches one.
        """
        if op_name(node) not in PRODUCTS:
            return None
        if find_producer(node.all_input_nodes[0]) == "softmax":
            return "av"
        if _reaches_softmax(node, lambda n: n.all_input_nodes):
            return "av"
        return "qk" if _reaches_softmax(node, lambda n: n.users) else None

    def _weight_owner(self, node: fx.Node) -> str | None:
        """``blocks.0.attn.qkv`` for a node whose weight is the parameter ``blocks.0.attn.qkv.weight``."""
        for argument in node.all_input_nodes:
            target = str(argument.target)
            if argument.op == "get_attr" and target in self._parameters and target.endswith(".weight"):
                return target.removesuffix(".weight")
        return None


def module_path(node: fx.Node) -> str:
    """Get the path of the innermost module that ran this node, empty for the root."""
    stack = node.meta.get("nn_module_stack") or {}
    path = next(reversed(stack.values()))[0] if stack else ""
    return str(path).split("@")[0]


def _reaches_softmax(start: fx.Node, neighbours: Callable[[fx.Node], Iterable[fx.Node]]) -> bool:
    """Search from ``start`` inside its module, not through another product, for a softmax."""
    home = module_path(start)
    queue, seen = deque(neighbours(start)), {start}
    while queue:
        node = queue.popleft()
        if node in seen:
            continue
        seen.add(node)
        if op_name(node) in SOFTMAXES:
            return True
        inside = module_path(node) == home or module_path(node).startswith(f"{home}.")
        if inside and op_name(node) not in PRODUCTS:
            queue.extend(neighbours(node))
    return False
