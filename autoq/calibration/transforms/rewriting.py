"""Giving sites of a traced model other parameters."""

from __future__ import annotations

import copy
from dataclasses import replace
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor, fx, nn

from autoq.errors import CalibrationError
from autoq.graph.trace import TracedModel

WEIGHT, BIAS = 1, 2
"""Positions of the parameters among the arguments of ``linear`` and convolutions."""
GAMMA, BETA = 2, 3
"""The same for ``layer_norm``."""


def exact(value: Tensor) -> Tensor:
    """Convert to double precision, so that what is written is rounded once; on the CPU, as not every device has it."""
    return value.detach().to("cpu", torch.float64)


def is_constant(argument: object) -> bool:
    """Tell whether an argument of a node is a parameter or folded constant of the model."""
    return isinstance(argument, fx.Node) and argument.op == "get_attr"


class ParameterRewriter:
    """A copy of a traced graph whose nodes get new parameters.

    Nodes are named as in the traced graph. Values are kept in double precision until :meth:`result` rounds them once.
    """

    def __init__(self, traced: TracedModel) -> None:
        """Copy the graph; ``traced`` is left as it is."""
        self._traced = traced
        old = traced.graph_module.graph
        self._graph = copy.deepcopy(old)
        self._nodes = {before.name: after for before, after in zip(old.nodes, self._graph.nodes, strict=True)}
        held = [str(node.target) for node in old.nodes if node.op in ("get_attr", "call_module")]
        self._held: dict[str, Any] = {name: attrgetter(name)(traced.graph_module) for name in held}
        self._written: dict[tuple[str, int], tuple[Tensor, Tensor]] = {}
        self._constants: dict[str, Tensor] = {}

    def value(self, node: str, index: int) -> Tensor | None:
        """Return the present value of a node's parameter in double precision; None where the node has none.

        Args:
            node: name of the node.
            index: of the parameter among its arguments.
        """
        if (node, index) in self._written:
            return self._written[node, index][0]
        original = self._original(node, index)
        return None if original is None else exact(original)

    def write_(self, node: str, index: int, value: Tensor, like: str | None = None) -> None:
        """Give a node a parameter of its own, of the type and on the device of the one it had, or else of its others.

        Args:
            node: name of the node.
            index: of the parameter among its arguments.
            value: in double precision.
            like: the node whose parameters give type and device where ``node`` has none.
        """
        places = [(node, index), *((node, other) for other in (WEIGHT, GAMMA, BETA))]
        places += [] if like is None else [(like, WEIGHT)]
        found = (self._original(*place) for place in places)
        self._written[node, index] = (value, next(original for original in found if original is not None))

    def constant(self, node: str) -> Tensor:
        """Return the present value of a constant's node in double precision."""
        held: Tensor = self._held[str(self._nodes[node].target)]
        return self._constants.get(node, exact(held))

    def write_constant_(self, node: str, value: Tensor) -> None:
        """Let a node that reads a parameter or constant read another one."""
        self._constants[node] = value

    def bypass_(self, node: str, argument: int) -> None:
        """Let what reads a node read one of its arguments instead."""
        taken = self._nodes[node]
        taken.replace_all_uses_with(taken.args[argument])
        self._graph.erase_node(taken)

    def result(self) -> TracedModel:
        """Return the model with the parameters that were changed, its other parameters shared.

        Raises:
            CalibrationError: a new value is beyond its type's range.
        """
        sites = {edge.node: site for (site, _), edge in self._traced.edges.items()}
        for (name, index), (value, like) in self._written.items():
            held_as = self._hold(f"{name}_{index}", value, like, sites[name])
            self._set_argument_(self._nodes[name], index, held_as)
        for name, value in self._constants.items():
            node = self._nodes[name]
            node.target = self._hold(name, value, self._held[str(node.target)], str(node.target))
        for node in list(self._graph.nodes):
            if node.op == "get_attr" and not node.users:
                self._graph.erase_node(node)
        self._graph.lint()
        names = {str(node.target) for node in self._graph.nodes if node.op in ("get_attr", "call_module")}
        held = {name: value for name, value in self._held.items() if name in names}
        graph_module = fx.GraphModule(held, self._graph)
        graph_module.train(self._traced.graph_module.training)
        edges = {key: replace(edge, node=self._nodes[edge.node].name) for key, edge in self._traced.edges.items()}
        return replace(self._traced, graph_module=graph_module, edges=edges)

    def _original(self, node: str, index: int) -> Tensor | None:
        arguments = self._nodes[node].args
        argument = arguments[index] if index < len(arguments) else None
        return self._held[str(argument.target)] if is_constant(argument) else None  # type: ignore[union-attr]

    def _hold(self, name: str, value: Tensor, like: Tensor, owner: str) -> str:
        """Keep a value under a name, in the type and on the device of ``like``; return the name."""
        rounded = value.to(like.dtype)
        if not torch.isfinite(rounded).all():
            raise CalibrationError(f"{owner}: its new parameters overflow {like.dtype}; leave it as it is")
        # Without dots: beside the old parameters, and not among the modules' own.
        own = f"_rewritten_{name}"
        self._held[own] = nn.Parameter(rounded.to(like.device), requires_grad=like.requires_grad)
        return own

    def _set_argument_(self, node: fx.Node, index: int, name: str) -> None:
        with self._graph.inserting_before(node):
            parameter = self._graph.get_attr(name)
        missing = [None] * (index + 1 - len(node.args))
        arguments = [*node.args, *missing]
        arguments[index] = parameter
        node.args = tuple(arguments)
