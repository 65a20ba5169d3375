"""What a node of a traced graph does, told from its operator."""

from __future__ import annotations

import operator

import torch
from torch import fx

_VIEWS = {
    *("view", "reshape", "permute", "transpose", "t", "flatten", "unflatten", "expand", "slice", "select", "squeeze"),
    *("unsqueeze", "unbind", "split", "split_with_sizes", "chunk", "alias", "detach", "narrow", "expand_as", "view_as"),
    *("reshape_as", "movedim", "swapaxes", "diagonal", "as_strided", "contiguous", "dropout", "to"),
}

PRODUCTS = frozenset({"matmul", "bmm", "mm", "addmm", "baddbmm", "einsum"})
"""Products of two tensors, either of which may be an activation."""

WEIGHT_LAYERS = frozenset({"linear", "conv1d", "conv2d", "conv3d"})
"""Products of an activation and a weight."""

UNSUPPORTED_PRODUCTS = frozenset(
    {
        *("scaled_dot_product_attention", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d", "convolution"),
        *("mv", "dot", "vdot", "addmv", "addbmm", "chain_matmul", "linalg_multi_dot", "bilinear", "tensordot", "inner"),
        *("outer", "kron", "cdist", "lstm", "gru", "rnn_tanh", "rnn_relu", "multi_head_attention_forward"),
        *("linalg_matmul", "linalg_vecdot", "_trilinear"),
    }
)
"""Operators that multiply and accumulate but are no site: reported by name, run in floating point."""

SOFTMAXES = frozenset({"softmax", "_softmax"})


def op_name(node: fx.Node) -> str:
    """Name of the operator without overload (``linear``), or an empty string for nodes that are not aten calls."""
    target = node.target
    return str(target.overloadpacket.__name__) if isinstance(target, torch._ops.OpOverload) else ""


def is_view(node: fx.Node) -> bool:
    """Whether the node's result may share memory with its input."""
    return op_name(node) in _VIEWS or node.target is operator.getitem


def is_in_place(node: fx.Node) -> bool:
    """Whether the node overwrites its first argument (``relu_``)."""
    name = op_name(node)
    return name.endswith("_") and not name.startswith("_")
