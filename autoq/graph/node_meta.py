"""What is known of the results of a traced graph's nodes, in a form that can be kept in a file."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, fx

_STACK = "nn_module_stack"


@dataclass(frozen=True)
class NodeValue:
    """What a node's tensor looks like.

    Attributes:
        shape: for one image.
        dtype: of its elements.
        device: where it is.
    """

    shape: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device


def settle_meta_(graph_module: fx.GraphModule) -> None:
    """Replace what ``torch.export`` notes at nodes by what is read later: values, and the modules they are computed in.

    ``meta["val"]`` becomes a :class:`NodeValue`, a list of them, or a number (of one image, where it is a size);
    ``meta["nn_module_stack"]`` has names of types in place of types. Everything else is dropped.
    """
    for part in graph_module.modules():
        if isinstance(part, fx.GraphModule):
            for node in part.graph.nodes:
                stack = node.meta.get(_STACK) or {}
                named = {
                    key: (path, kind if isinstance(kind, str) else _name(kind)) for key, (path, kind) in stack.items()
                }
                value = {"val": _described(node.meta["val"])} if "val" in node.meta else {}
                node.meta = value | ({_STACK: named} if named else {})


def _described(value: object) -> object:
    if isinstance(value, Tensor):
        return NodeValue(tuple(_for_one_image(size) for size in value.shape), value.dtype, value.device)
    if isinstance(value, list | tuple):
        return [_described(each) for each in value]
    return _for_one_image(value) if isinstance(value, torch.SymInt) else value


def _for_one_image(size: int | torch.SymInt) -> int:
    """Return a size for one image: of a multiple of the batch, the multiple."""
    if isinstance(size, int):
        return size
    expression = size.node.expr
    return int(expression.subs(dict.fromkeys(expression.free_symbols, 1)))


def _name(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"
