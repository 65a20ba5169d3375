"""Rewrites that leave a traced graph's values as they are and its nodes easier to find, cut and run."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx

from autoq.graph.functionalize import functionalize_
from autoq.graph.nodes import RANDOM, op_name

aten = torch.ops.aten

_CHECKS = {"_assert_tensor_metadata", "_assert_scalar", "_assert_async", "sym_constrain_range_for_size"}


def clean_(graph_module: fx.GraphModule) -> None:
    """Drop checks, dropout and dead code, make in-place operators functional, write out attention, fold constants.

    Folded nodes stay in the graph without users, so that products among them can be reported; eliminate them after.

    Raises:
        TraceError: an in-place operator cannot be made functional.
    """
    _drop_checks_(graph_module)
    functionalize_(graph_module)
    _drop_dropout_(graph_module)
    graph_module.graph.eliminate_dead_code(is_impure_node=_is_kept)
    _spell_out_attention_(graph_module)
    _fold_constants_(graph_module)


def _is_kept(node: fx.Node) -> bool:
    """Whether a node stays though nothing reads it: only what the model takes and returns; no other has an effect."""
    return node.op in ("placeholder", "output")


def _drop_checks_(graph_module: fx.GraphModule) -> None:
    """Remove assertions on shapes and dtypes: they hold by construction and cost time on every call."""
    for node in list(graph_module.graph.nodes):
        if op_name(node) in _CHECKS or (node.op == "call_module" and node.target == "_guards_fn"):
            graph_module.graph.erase_node(node)
    if hasattr(graph_module, "_guards_fn"):
        del graph_module._guards_fn


def _drop_dropout_(graph_module: fx.GraphModule) -> None:
    """Remove dropout, which is the identity in evaluation mode but counts as random and so resists elimination."""
    for node in list(graph_module.graph.nodes):
        if op_name(node) == "dropout" and node.args[2] is False:
            node.replace_all_uses_with(node.args[0])
            graph_module.graph.erase_node(node)


def _spell_out_attention_(graph_module: fx.GraphModule) -> None:
    """Write ``scaled_dot_product_attention`` out as two products and a softmax, so that both can be quantized."""
    graph = graph_module.graph
    for node in list(graph.nodes):
        if op_name(node) != "scaled_dot_product_attention":
            continue
        bound = _bind(node)
        query, key, value, mask = bound["query"], bound["key"], bound["value"], bound["attn_mask"]
        if bound["is_causal"] or bound["enable_gqa"] or bound["dropout_p"]:
            continue  # left whole, and reported as uncounted
        width = query.meta["val"].shape[-1]
        scale = bound["scale"] if bound["scale"] is not None else 1 / math.sqrt(int(width))

        def call(target: Callable[..., Any], *args: Any, source: fx.Node = node) -> fx.Node:
            created = graph.call_function(target, args)
            created.meta = {key: value for key, value in source.meta.items() if key != "val"}
            return created

        with graph.inserting_before(node):
            transposed = call(aten.transpose.int, key, -2, -1)
            scores = call(aten.matmul.default, call(aten.mul.Tensor, query, scale), transposed)
            if mask is not None:
                if mask.meta["val"].dtype == torch.bool:
                    scores = call(aten.masked_fill.Scalar, scores, call(aten.logical_not.default, mask), -math.inf)
                else:
                    scores = call(aten.add.Tensor, scores, mask)
            attention = call(aten.softmax.int, scores, -1)
            product = call(aten.matmul.default, attention, value)
            product.meta = dict(node.meta)
        node.replace_all_uses_with(product)
        graph.erase_node(node)


def _bind(node: fx.Node) -> dict[str, Any]:
    """Arguments of an aten call by name, defaults filled in."""
    arguments = node.target._schema.arguments  # type: ignore[union-attr]
    bound = {argument.name: argument.default_value for argument in arguments if argument.has_default_value()}
    bound |= {argument.name: value for argument, value in zip(arguments, node.args, strict=False)}
    return {"enable_gqa": False, "scale": None, "attn_mask": None} | bound | dict(node.kwargs)


def _fold_constants_(graph_module: fx.GraphModule) -> None:
    """Compute what does not depend on the input once (relative position biases, rotary tables, weight norms)."""
    constant: set[fx.Node] = set()
    for node in graph_module.graph.nodes:
        if node.op == "get_attr":
            constant.add(node)
            continue
        repeatable = node.op == "call_function" and op_name(node) not in RANDOM
        if repeatable and all(argument in constant for argument in node.all_input_nodes):
            constant.add(node)
    values: dict[fx.Node, Any] = {}

    def evaluate(node: fx.Node) -> Any:
        if node not in values:
            if node.op == "get_attr":
                values[node] = operator.attrgetter(str(node.target))(graph_module)
            else:
                args, kwargs = fx.node.map_arg((node.args, node.kwargs), evaluate)
                with torch.no_grad():
                    values[node] = node.target(*args, **kwargs)  # type: ignore[operator]
        return values[node]

    for node in list(graph_module.graph.nodes):
        if node not in constant or node.op == "get_attr" or all(user in constant for user in node.users):
            continue
        value = evaluate(node)
        if not isinstance(value, Tensor):
            continue
        name = f"_folded_{node.name}"
        graph_module.register_buffer(name, value.detach().clone(), persistent=False)
        with graph_module.graph.inserting_before(node):
            folded = graph_module.graph.get_attr(name)
        folded.meta = dict(node.meta)
        node.replace_all_uses_with(folded)
