"""Name the tensors that a traced model returns, and keep the structure in which it returns them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch
from torch import Tensor, fx
from torch.utils import _pytree as pytree

from autoq.graph.node_meta import NodeValue


def output_spec(graph_module: fx.GraphModule) -> pytree.TreeSpec | None:
    """Get how the model's output is put together from its leaves; None for a model that returns a single leaf."""
    spec = getattr(graph_module, "_out_spec", None)
    return None if spec is None or spec.is_leaf() else spec


def output_names(graph_module: fx.GraphModule) -> tuple[str, ...]:
    """Name each tensor that the model returns by its place in the output, in the order of the leaves.

    Keys, field names and indices from the outside in, joined by dots: ``logits``, ``0``, ``aux.1``; an empty string
    for a model that returns a tensor. Leaves that are no tensors (None, numbers) have no name.
    """
    leaves = _leaves(graph_module)
    return tuple(path for path, leaf in zip(_paths(graph_module), leaves, strict=True) if isinstance(leaf, NodeValue))


def hand_out_(graph_module: fx.GraphModule) -> dict[fx.Node, str]:
    """Put a node of its own, an ``alias``, before each floating-point tensor that the model returns.

    Returns:
        These nodes, which are the last but one of the graph, and the name of the tensor as in :func:`output_names`.
    """
    graph, output = graph_module.graph, _output(graph_module)
    names: dict[fx.Node, str] = {}
    returned = _returned(graph_module)
    for index, (leaf, name) in enumerate(zip(returned, _paths(graph_module), strict=True)):
        value = leaf.meta.get("val") if isinstance(leaf, fx.Node) else None
        if isinstance(value, Tensor) and value.is_floating_point():
            with graph.inserting_before(output):
                alias = graph.call_function(torch.ops.aten.alias.default, (leaf,))
            alias.meta = {"val": value}
            names[alias], returned[index] = name, alias
    output.args = (tuple(returned) if isinstance(output.args[0], list | tuple) else returned[0],)
    return names


def _output(graph_module: fx.GraphModule) -> fx.Node:
    output: fx.Node = next(iter(reversed(graph_module.graph.nodes)))
    return output


def _returned(graph_module: fx.GraphModule) -> list[fx.node.Argument]:
    returned = _output(graph_module).args[0]
    return list(returned) if isinstance(returned, list | tuple) else [returned]


def _leaves(graph_module: fx.GraphModule) -> list[object]:
    """Return what is known of each leaf that the model returns."""
    return [leaf.meta.get("val") if isinstance(leaf, fx.Node) else leaf for leaf in _returned(graph_module)]


def _paths(graph_module: fx.GraphModule) -> list[str]:
    """Name each leaf that the model returns, tensor or not, by its place."""
    spec = output_spec(graph_module)
    return [""] if spec is None else leaf_names(pytree.tree_unflatten(_leaves(graph_module), spec))


def leaf_names(tree: object) -> list[str]:
    """Name each leaf of a model's output, tensor or not, by its place.

    >>> leaf_names({"logits": 1, "aux": [2, 3]})
    ['logits', 'aux.0', 'aux.1']
    """
    children, spec = pytree.tree_flatten(tree, is_leaf=lambda part: part is not tree)
    if len(children) == 1 and children[0] is tree:
        return [""]
    paths = []
    for key, child in zip(_keys(tree, children, spec), children, strict=True):
        paths += [f"{key}.{path}" if path else key for path in leaf_names(child)]
    return paths


def tensor_names(output: object) -> list[str]:
    """Name each tensor of a model's output by its place; other leaves have no name.

    >>> import torch
    >>> tensor_names({"logits": torch.zeros(1), "aux": [None, torch.zeros(1)]})
    ['logits', 'aux.1']
    """
    leaves = pytree.tree_leaves(output)
    return [name for name, leaf in zip(leaf_names(output), leaves, strict=True) if isinstance(leaf, Tensor)]


def register_dataclasses(output: object) -> bool:
    """Make ``torch.export`` see the fields of dataclasses in a model's output; return whether there were new ones."""
    types = {type(leaf) for leaf in pytree.tree_leaves(output) if dataclasses.is_dataclass(leaf)}
    for new in types:
        register_dataclass(new)
    if types:
        register_dataclasses(output)  # those within
    return bool(types)


def register_dataclass(kind: type) -> None:
    """Make ``torch.export`` see the fields of a dataclass, unless it does so already."""
    if kind not in pytree.SUPPORTED_NODES:
        pytree.register_dataclass(kind, serialized_type_name=f"{kind.__module__}.{kind.__qualname__}")


def output_dataclasses(graph_module: fx.GraphModule) -> tuple[type, ...]:
    """List the dataclasses in a traced model's output."""
    spec = output_spec(graph_module)
    return () if spec is None else tuple(_dataclasses_in(pytree.tree_unflatten(_leaves(graph_module), spec)))


def _dataclasses_in(tree: object) -> dict[type, None]:
    children = pytree.tree_leaves(tree, is_leaf=lambda part: part is not tree)
    if len(children) == 1 and children[0] is tree:
        return {}
    found = dict.fromkeys([type(tree)] if dataclasses.is_dataclass(tree) else [])
    for child in children:
        found |= _dataclasses_in(child)
    return found


def _keys(tree: object, children: Sequence[object], spec: pytree.TreeSpec) -> list[str]:
    """Name the children of a node: by the type's own keys, or by names in its context, or by number."""
    try:
        keyed, _ = pytree.tree_flatten_with_path(tree, is_leaf=lambda part: part is not tree)
    except ValueError:  # registered without keys, as the outputs of transformers are: their context lists the fields
        context = spec.context
        named = isinstance(context, list | tuple) and len(context) == len(children)
        return [str(key) for key in (context if named else range(len(children)))]
    return [_text(path[0]) for path, _ in keyed]


def _text(key: object) -> str:
    for attribute in ("name", "key", "idx"):  # of a field, of a mapping, of a sequence
        if hasattr(key, attribute):
            return str(getattr(key, attribute))
    return str(key)
