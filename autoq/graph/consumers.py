"""Who reads a site's output unchanged, and which site's output an operand is."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, fx

from autoq.graph.insert import OperandKey
from autoq.graph.nodes import is_cast, is_move, op_name
from autoq.graph.probing import BaseProbe, argument_places, numbered_like, reads_shape
from autoq.graph.trace import TracedModel


def consumers(traced: TracedModel, site: str) -> tuple[OperandKey, ...] | None:
    """The operands that are the output of ``site``, its values moved at most (viewed, permuted, rolled, copied).

    Returns:
        (site, operand) pairs in execution order; None if anything else reads the output, and so would notice a change
        of it: a residual branch, a scaling, a concatenation, padding with zeros, the model's own output.

    Raises:
        KeyError: the model has no such site.
    """
    keys = {
        (edge.node, edge.index, edge.item): key
        for key, edge in traced.edges.items()
        if not traced.sites_by_name[key[0]].is_optional
    }
    found: set[OperandKey] = set()
    for node in _moved(traced.node(site)):
        for user in node.users:
            places = list(argument_places(user, node))
            if not places:  # deeper in its arguments than sites and moves have theirs
                return None
            for index, item in places:
                key = keys.get((user.name, index, item))
                if key is not None:
                    found.add(key)
                elif not (_passes_on(user, index, item) or reads_shape(user, index)):
                    return None
    return tuple(key for key in traced.edges if key in found)


def source_site(traced: TracedModel, site: str, operand: str) -> str | None:
    """The LayerNorm or softmax whose output this operand is, its values moved at most; None if there is none.

    Raises:
        KeyError: the model has no such operand.
    """
    sources = {
        edge.node: name
        for (name, _), edge in traced.edges.items()
        if traced.sites_by_name[name].op in ("layer_norm", "softmax")
    }
    node = traced.edges[site, operand].source(traced.graph_module)
    while node.name not in sources:
        if not is_move(node):
            return None
        node = node.args[0]  # type: ignore[assignment]
    return sources[node.name]


def linears_by_norm(traced: TracedModel) -> dict[str, tuple[str, ...]]:
    """LayerNorms over one axis that are read by linear layers only, and those layers, in execution order.

    Channel c of the LayerNorm is channel c of each layer's input. This is found by running the model once on one image
    of zeros: two axes of the same length cannot be told apart by their shapes.
    """
    probe = _ChannelProbe(traced.graph_module)
    probe.run_on_zeros()
    found = {}
    for norm in traced.sites:
        if norm.op != "layer_norm" or len(axes := traced.node(norm.name).args[1]) != 1:  # type: ignore[arg-type]
            continue
        keys = consumers(traced, norm.name) or ()
        sites = [traced.sites_by_name[site] for site, _ in keys]
        in_order = all(
            site.op == "linear"
            and operand == "input"
            and site.operand("input").shape[-1] == axes[0]  # type: ignore[index]
            and traced.node(site.name) in probe.in_order
            for site, (_, operand) in zip(sites, keys, strict=True)
        )
        if keys and in_order:
            found[norm.name] = tuple(site.name for site in sites)
    return found


def _moved(node: fx.Node) -> Iterator[fx.Node]:
    """``node``, and all that its values are moved to."""
    yield node
    for user in node.users:
        if is_move(user) and user.args[0] is node:
            yield from _moved(user)


def _passes_on(user: fx.Node, index: int, item: int | None) -> bool:
    return is_move(user) and (index, item) == (0, None)


class _ChannelProbe(BaseProbe):
    """Sends the numbers of the channels along the way that each LayerNorm's output takes.

    Attributes:
        in_order: linear nodes whose input has them in its last axis as they were in the LayerNorm's.
    """

    def __init__(self, graph_module: fx.GraphModule) -> None:
        super().__init__(graph_module)
        self.in_order: set[fx.Node] = set()
        self._numbers: dict[fx.Node, Any] = {}

    def run_node(self, n: fx.Node) -> Any:
        """Run a node, and beside it the same move of the numbers."""
        numbers = self._numbers.get(n.args[0]) if n.args and isinstance(n.args[0], fx.Node) else None
        if op_name(n) == "linear" and isinstance(numbers, Tensor) and torch.equal(numbers, _numbered(numbers)):
            self.in_order.add(n)
        if numbers is not None and is_move(n):
            self._numbers[n] = numbers if is_cast(n) else self.move(n, numbers)
        result = super().run_node(n)
        if op_name(n) == "layer_norm":
            self._numbers[n] = _numbered(result)
        return result


def _numbered(x: Tensor) -> Tensor:
    """Return the number of its channel in place of each value."""
    return numbered_like(x, torch.arange(x.shape[-1], device=x.device))
