"""What a node of a traced graph does, told from its operator."""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import fx

_VIEWS = {
    *("view", "reshape", "permute", "transpose", "t", "flatten", "unflatten", "expand", "slice", "select", "squeeze"),
    *("unsqueeze", "unbind", "split", "split_with_sizes", "chunk", "alias", "detach", "narrow", "expand_as", "view_as"),
    *("reshape_as", "movedim", "swapaxes", "diagonal", "as_strided", "contiguous", "dropout", "to", "mT"),
}
_CASTS = {"to", "_to_copy", "type_as"}

COPIES = frozenset({"clone", "roll", "flip", "repeat", "index", "index_select", "_to_copy", "type_as"})
"""Operators that lay values out anew in memory of their own and change none."""

PADS = frozenset({"pad", "constant_pad_nd"})
"""Operators that put further values around those of their input."""

PRODUCTS = frozenset({"matmul", "bmm", "mm", "addmm", "baddbmm", "einsum"})
"""Products of two tensors, either of which may be an activation."""

WEIGHT_LAYERS = frozenset({"linear", "conv1d", "conv2d", "conv3d"})
"""Products of an activation and a weight."""

TRANSPOSED_LAYERS = frozenset({"conv_transpose2d"})
"""Likewise, with the weight's input channels on its first axis and its output channels on the second."""

UNSUPPORTED_PRODUCTS = frozenset(
    {
        *("scaled_dot_product_attention", "conv_transpose1d", "conv_transpose3d", "convolution"),
        *("mv", "dot", "vdot", "addmv", "addbmm", "chain_matmul", "linalg_multi_dot", "bilinear", "tensordot", "inner"),
        *("outer", "kron", "cdist", "lstm", "gru", "rnn_tanh", "rnn_relu", "multi_head_attention_forward"),
        *("linalg_matmul", "linalg_vecdot", "_trilinear"),
    }
)
"""Operators that multiply and accumulate but are no site: reported by name, run in floating point."""

RANDOM = frozenset(
    {"rand", "randn", "rand_like", "randn_like", "bernoulli", "randint", "randperm", "multinomial", "normal", "uniform"}
)
"""Operators that give something else each time."""

SOFTMAXES = frozenset({"softmax", "_softmax"})


def op_name(node: fx.Node) -> str:
    """Get the operator's name without overload (``linear``); an empty string for nodes that are not aten calls."""
    target = node.target
    return str(target.overloadpacket.__name__) if isinstance(target, torch._ops.OpOverload) else ""


def attribute(module: fx.GraphModule, target: str) -> Any:
    """Get what a ``get_attr`` node reads: a parameter, a buffer, or a part of the graph.

    Raises:
        AttributeError: there is no such attribute.
    """
    return torch.fx.graph_module._get_attr(module, target)


def is_view(node: fx.Node) -> bool:
    """Tell whether the node's result may share memory with its input."""
    return op_name(node) in _VIEWS or node.target is operator.getitem


def is_cast(node: fx.Node) -> bool:
    """Tell whether the node turns its input into another type."""
    return op_name(node) in _CASTS


def is_move(node: fx.Node) -> bool:
    """Tell whether every value of the node's result is one of its first argument's (cast to another float at most).

    So for views and copies, and padding by nothing, which Swin has where its windows fit; not for dropout, which is one
    of the views because nothing is left of it in evaluation mode, nor where memory is read past the view.
    """
    name = op_name(node)
    if is_cast(node):
        value = node.meta.get("val")
        return value is not None and bool(value.dtype.is_floating_point)
    if name in PADS:
        return not any(node.args[1])  # type: ignore[arg-type]
    return name in COPIES or (is_view(node) and name not in ("dropout", "as_strided"))
