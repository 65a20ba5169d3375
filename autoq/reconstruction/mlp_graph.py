"""MLPs in a traced graph: two linear layers with a GELU between them, and the same with a ReLU."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor, fx, nn

from autoq.errors import ModelError
from autoq.graph.consumers import linears_by_norm
from autoq.graph.naming import module_path
from autoq.graph.nodes import is_move, op_name
from autoq.graph.producers import find_producer
from autoq.graph.sites import Site
from autoq.graph.trace import TracedModel

_PARAMETERS = {"linear": (1, 2), "conv2d": (1, 2), "layer_norm": (2, 3)}
"""Positions of weight and bias among the arguments of an operator."""


@dataclass(frozen=True)
class Mlp:
    """fc2(GELU(fc1(norm(x)))).

    Attributes:
        name: module path that fc1 and fc2 have in common (``blocks.3.mlp``); where there is none, or another MLP has
            it already, the path of fc2.
        norm: LayerNorm site that feeds fc1 and nothing else, or None.
        fc1: site of the layer before the GELU.
        fc2: site of the layer after it, which alone reads it.
        gelu: name of the GELU's node.
        parameters: names of the parameters of norm, fc1 and fc2, as the model has them.
        activation: path of the module that does the GELU and nothing else (``blocks.3.mlp.act``); empty if the GELU is
            a function call inside a larger module.
    """

    name: str
    norm: str | None
    fc1: str
    fc2: str
    gelu: str
    parameters: tuple[str, ...]
    activation: str = ""


def find_mlps(traced: TracedModel) -> tuple[Mlp, ...]:
    """Find every GELU between two layers, in execution order, whatever the modules are called.

    Its input is the output of a linear layer or 1 x 1 convolution fc1, its output is read by another one, fc2, alone;
    views and copies between them do not count. Layers that share a parameter with another node are left out, and so are
    GELUs that are multiplied with something (gated MLPs) or convolved in between.
    """
    layers = {
        traced.edges[site.name, "input"].node: site
        for site in traced.sites
        if (site.op == "linear" or _is_pointwise(site)) and own_parameters(traced, site.name)
    }
    norms = {fc1: norm for norm, linears in linears_by_norm(traced).items() for fc1 in linears if len(linears) == 1}
    found: dict[str, Mlp] = {}
    activations = _activation_modules(traced)
    for node in traced.graph_module.graph.nodes:
        if op_name(node) != "gelu":
            continue
        fc1, readers = layers.get(_source(node).name), set(_readers(node))
        fc2 = layers.get(next(iter(readers)).name) if len(readers) == 1 else None
        if fc1 is None or fc2 is None or not _is_input(node, traced, fc2.name):
            continue
        norm = norms.get(fc1.name)
        sites = [fc1.name, fc2.name] if norm is None else [norm, fc1.name, fc2.name]
        parameters = tuple(name for site in sites for name in own_parameters(traced, site))
        name = _common_module(fc1.name, fc2.name)
        name = fc2.name if not name or name in found else name
        path = module_path(node)
        activation = path if path in activations else ""
        found[name] = Mlp(name, norm, fc1.name, fc2.name, node.name, parameters, activation)
    return tuple(found.values())


def check_mlps(mlps: Sequence[Mlp]) -> None:
    """Check that there is an MLP.

    Raises:
        ModelError: there is none.
    """
    if not mlps:
        raise ModelError("the model has no GELU between two linear layers: leave MLP reconstruction out (--no-mlp)")


def parameters_of(traced: TracedModel, mlp: Mlp) -> dict[str, Tensor]:
    """Return the MLP's parameters by name; they are not copied."""
    return {name: attrgetter(name)(traced.graph_module) for name in mlp.parameters}


def with_relu(traced: TracedModel, mlps: Sequence[Mlp], parameters: Mapping[str, Tensor] | None = None) -> TracedModel:
    """Return the model with ReLU in place of the GELU of some MLPs.

    Args:
        traced: left as it is.
        mlps: of that model.
        parameters: values for parameters of these MLPs, by name; the others keep theirs.

    Returns:
        A model with the same sites, operands and names. The MLPs' parameters are copies that need no gradient, all
        others are shared.
    """
    values = {name: value for mlp in mlps for name, value in parameters_of(traced, mlp).items()}
    values |= {name: value for name, value in (parameters or {}).items() if name in values}
    old = traced.graph_module.graph
    graph = copy.deepcopy(old)
    nodes = {before.name: after for before, after in zip(old.nodes, graph.nodes, strict=True)}
    for mlp in mlps:
        node = nodes[mlp.gelu]
        node.target, node.args, node.kwargs = torch.ops.aten.relu.default, (node.args[0],), {}
    held: dict[str, Any] = {}
    for node in graph.nodes:
        if node.op in ("get_attr", "call_module"):
            held[str(node.target)] = attrgetter(str(node.target))(traced.graph_module)
    for name, value in values.items():
        held[name] = nn.Parameter(value.detach().clone().to(held[name]), requires_grad=False)
    graph_module = fx.GraphModule(held, graph)
    graph_module.train(traced.graph_module.training)
    edges = {key: replace(edge, node=nodes[edge.node].name) for key, edge in traced.edges.items()}
    changed = replace(traced, graph_module=graph_module, edges=edges)
    return replace(changed, sites=tuple(_with_producers(changed, site) for site in traced.sites))


def _with_producers(traced: TracedModel, site: Site) -> Site:
    """Return the site with the producers that its operands have in the changed graph."""
    operands = tuple(
        replace(operand, producer=find_producer(traced.edges[site.name, operand.name].source(traced.graph_module)))
        if operand.producer == "gelu"
        else operand
        for operand in site.operands
    )
    return replace(site, operands=operands)


def _common_module(one: str, other: str) -> str:
    pairs = zip(one.split("."), other.split("."), strict=False)
    return ".".join(a for a, _ in takewhile(lambda pair: pair[0] == pair[1], pairs))


def _activation_modules(traced: TracedModel) -> set[str]:
    """Return the paths of modules that compute only GELUs."""
    ops: dict[str, set[str]] = {}
    for node in traced.graph_module.graph.nodes:
        if node.op == "call_function":
            for path, _ in (node.meta.get("nn_module_stack") or {}).values():
                ops.setdefault(str(path).split("@")[0], set()).add(op_name(node))
    return {path for path, inside in ops.items() if inside == {"gelu"}}


def _is_pointwise(site: Site) -> bool:
    if site.op != "conv2d":
        return False
    weight, channels = site.operand("weight").shape, site.operand("input").shape[-3]
    return weight[1:] == (channels, 1, 1)


def own_parameters(traced: TracedModel, site: str) -> tuple[str, ...]:
    """Return the names of the site's weight and bias; none if another node reads one of them."""
    nodes: list[fx.Node] = list(traced.graph_module.graph.nodes)
    node = traced.node(site)
    positions = _PARAMETERS[op_name(node)]
    arguments = [node.args[index] for index in positions if index < len(node.args) and node.args[index] is not None]
    names = [str(each.target) for each in arguments if isinstance(each, fx.Node) and each.op == "get_attr"]
    readers = {user for each in nodes if each.op == "get_attr" and str(each.target) in names for user in each.users}
    return tuple(names) if len(names) == len(arguments) and readers <= {node} else ()


def _source(node: fx.Node) -> fx.Node:
    """Return the node that computed the values of a node's first argument."""
    source = node.args[0]
    while isinstance(source, fx.Node) and is_move(source):
        source = source.args[0]
    assert isinstance(source, fx.Node)  # noqa: S101 - tensors come from nodes
    return source


def _readers(node: fx.Node) -> Iterator[fx.Node]:
    """Yield the nodes that read a node's values, through views and copies; reading only its shape does not count."""
    for user in node.users:
        if is_move(user) and user.args[0] is node:
            yield from _readers(user)
        elif not op_name(user).startswith("sym_"):
            yield user


def _is_input(node: fx.Node, traced: TracedModel, site: str) -> bool:
    """Return whether a node computed the input of a site."""
    source = traced.edges[site, "input"].source(traced.graph_module)
    while source is not node and is_move(source):
        source = source.args[0]  # type: ignore[assignment]
    return source is node
