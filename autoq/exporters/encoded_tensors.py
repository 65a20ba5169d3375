"""Operands that are quantized where AIMET quantizes: at the tensor that an operation other than a view returns."""

from __future__ import annotations

import operator
from collections.abc import Hashable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import fx

from autoq.exporters.onnx_model import replace_nodes_
from autoq.graph.insert import OperandKey
from autoq.graph.nodes import op_name
from autoq.scoring.quantized_module import path_of

if TYPE_CHECKING:
    from onnx import GraphProto, NodeProto

_STEPS = (
    *(("Div", ("scale",)), ("Round", ()), ("Add", ("zero_point",)), ("Clip", ("least", "greatest"))),
    *(("Sub", ("zero_point",)), ("Mul", ("scale",))),
)
"""Operators that quantize and dequantize, and what else than the tensor they read."""
_VIEWS = frozenset(
    {
        *("view", "reshape", "flatten", "unflatten", "squeeze", "unsqueeze", "permute", "transpose", "t"),
        *("unbind", "split", "split_with_sizes", "chunk", "select", "contiguous", "clone", "alias", "detach"),
    }
)
"""Operators of torch that become ONNX operators at whose outputs AIMET has no quantizers."""


def why_not_encoded(model: fx.GraphModule, grids: Mapping[OperandKey, Hashable]) -> dict[OperandKey, str]:
    """Say which activations have no tensor that can be quantized for them alone, and why.

    A quantizer with one scale may stand before views instead of behind them, as long as nothing else reads what is
    between. One tensor has one quantizer, whoever reads it.

    Args:
        model: the graph of a quantized model.
        grids: what the quantizer of each activation rounds to, equal for equal ones.
    """
    nodes = {str(node.target): node for node in model.graph.nodes if node.op == "call_module"}
    entries = {key: _entry(nodes[path_of(key)]) for key in grids}
    reasons = {
        key: "it is behind a reshape of a tensor that others read, where AIMET has no quantizer"
        for key, entry in entries.items()
        if _is_view(_read(entry))
    }
    by_tensor: dict[fx.Node, list[OperandKey]] = {}
    for key, entry in entries.items():
        by_tensor.setdefault(_read(entry), []).append(key)
    for tensor, keys in by_tensor.items():
        others = {user for user in tensor.users if op_name(user) != "sym_size"} - {entries[key] for key in keys}
        if others or len({grids[key] for key in keys}) > 1:
            reasons = dict.fromkeys(keys, "others read its tensor, which AIMET would quantize for them, too") | reasons
    return reasons


def _entry(quantizer: fx.Node) -> fx.Node:
    """Return the first of the views that lead to a quantizer and nowhere else; itself if there are none."""
    node = quantizer
    while _is_view(_read(node)) and len(_read(node).users) == 1:
        node = _read(node)
    return node


def _read(node: fx.Node) -> fx.Node:
    found = node.args[0]
    assert isinstance(found, fx.Node)  # noqa: S101 - of views and quantizers
    return found


def _is_view(node: fx.Node) -> bool:
    return op_name(node) in _VIEWS or node.target is operator.getitem


def quantize_tensors_(graph: GraphProto, encodings: Iterable[Mapping[str, Any]]) -> None:
    """Quantize and dequantize tensors of a graph as AIMET's encodings say, by ordinary operators.

    Args:
        graph: is changed: all that reads an encoded tensor reads its quantized values.
        encodings: of version 2.0.0, per tensor or per channel.
    """
    from onnx import helper, numpy_helper

    ranks = {each.name: len(each.dims) for each in graph.initializer}
    made: dict[str, list[NodeProto]] = {}
    for encoding in encodings:
        name, kind = encoding["name"], encoding["output_dtype"]
        bits, is_signed = int(kind.lstrip("uint")), not kind.startswith("u")
        shape = [1] * ranks.get(name, 0)
        if "axis" in encoding:
            shape[encoding["axis"]] = -1
        least = -(2 ** (bits - 1)) if is_signed else 0
        scale = np.array(encoding["y_scale"], np.float32)
        zero_point = np.broadcast_to(np.array(encoding.get("y_zero_point", 0), np.float32), scale.shape)
        values = {
            "scale": scale.reshape(shape),
            "zero_point": zero_point.reshape(shape),
            "least": np.array(least, np.float32),
            "greatest": np.array(least + 2**bits - 1, np.float32),
        }
        given = {label: f"{name}.encoded.{label}" for label in values}
        graph.initializer.extend(numpy_helper.from_array(value, given[label]) for label, value in values.items())
        names = [name, *(f"{name}.encoded.{operator}" for operator, _ in _STEPS[:-1]), f"{name}.encoded"]
        made[name] = [
            helper.make_node(operator, [read, *(given[each] for each in others)], [output])
            for (operator, others), read, output in zip(_STEPS, names[:-1], names[1:], strict=True)
        ]
    for node in graph.node:
        for index, read in enumerate(node.input):
            if read in made:
                node.input[index] = f"{read}.encoded"
    produced = {name for node in graph.node for name in node.output}
    nodes = [node for name, chain in made.items() if name not in produced for node in chain]
    for node in graph.node:
        nodes += [node, *(step for name in node.output for step in made.get(name, []))]
    replace_nodes_(graph, nodes)
