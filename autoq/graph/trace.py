"""Trace a model once with ``torch.export``; everything after works on the traced graph, whatever the architecture."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor, fx, nn

from autoq.errors import TraceError
from autoq.graph.clean import clean_
from autoq.graph.explain import explain, export, silenced
from autoq.graph.find import OperandEdge, find_sites
from autoq.graph.live import LiveSets, find_live_sets
from autoq.graph.node_meta import settle_meta_
from autoq.graph.nodes import attribute
from autoq.graph.outputs import hand_out_, output_names, register_dataclasses
from autoq.graph.shapes import propagate
from autoq.graph.sites import Operand, Site, UncountedOp
from autoq.graph.verify import verify

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TracedModel:
    """A model as a graph of ATen operators, with its sites.

    Nothing in it overwrites a tensor: its input and buffers are as before after each call.

    Attributes:
        graph_module: runs the model; takes the input tensor, returns what the model returns. Shares its parameters.
        sites: every node that can be quantized, in execution order.
        uncounted: matmul-like nodes that are no site, and why; they run in floating point and are not in the BOPs.
        edges: (site, operand) to the place in the graph where a quantizer goes.
        macs: multiply-accumulates per image over all sites.
    """

    graph_module: fx.GraphModule
    sites: tuple[Site, ...]
    uncounted: tuple[UncountedOp, ...]
    edges: dict[tuple[str, str], OperandEdge] = field(repr=False)

    @cached_property
    def sites_by_name(self) -> dict[str, Site]:
        """Sites by name."""
        return {site.name: site for site in self.sites}

    @cached_property
    def output_names(self) -> tuple[str, ...]:
        """Name of each tensor that the model returns, in order: ``logits``, ``0``, ``aux.1``; "" for a bare tensor."""
        return output_names(self.graph_module)

    @cached_property
    def live_sets(self) -> LiveSets:
        """Which activations are alive at each step."""
        return find_live_sets(self.graph_module, self.edges)

    @property
    def macs(self) -> int:
        """Multiply-accumulates per image over all sites."""
        return sum(site.macs for site in self.sites)

    @property
    def largest_activation(self) -> int:
        """Elements per image of the largest operand that is an activation, optional sites apart; at least 1."""
        operands = ((site, each) for site, each in self.operands() if not (site.is_optional or each.is_weight))
        return max((math.prod(each.shape) for _, each in operands), default=1)

    def operands(self) -> list[tuple[Site, Operand]]:
        """List every operand with its site, in execution order."""
        return [(site, operand) for site in self.sites for operand in site.operands]

    def node(self, site: str) -> fx.Node:
        """Find the node of a site.

        Raises:
            KeyError: there is no such site.
        """
        name = self.edges[site, self.sites_by_name[site].operands[0].name].node
        nodes: Iterable[fx.Node] = self.graph_module.graph.nodes
        return next(node for node in nodes if node.name == name)

    def weight(self, site: str, operand: str = "weight") -> Tensor:
        """Get the parameter (or folded constant) behind a weight operand.

        Raises:
            KeyError: there is no such operand.
        """
        node = self.edges[site, operand].source(self.graph_module)
        value: Tensor = attribute(self.graph_module, str(node.target))
        return value.detach()


def trace(module: nn.Module, example: Tensor) -> TracedModel:
    """Trace ``module`` with a free batch dimension, find its sites, and check the trace against ``module`` itself.

    Args:
        module: in evaluation mode, on the device of ``example``; called with one tensor.
        example: input of shape (N, ...), N ≥ 1, of any dtype. The check runs on it and on random images in its range.

    Raises:
        TraceError: the model is in training mode, or cannot be traced (the message names the operation and its line),
            or returns something else than its trace on three images (the message names the output and the largest
            difference; see :func:`autoq.graph.verify.verify` for what counts as rounding).

    Example:
        >>> traced = trace(nn.Sequential(nn.Linear(4, 8), nn.GELU(), nn.Linear(8, 3)).eval(), torch.zeros(2, 4))
        >>> [(site.name, site.macs, site.operands[0].producer) for site in traced.sites if site.macs]
        [('0', 32, 'other'), ('2', 24, 'gelu')]
        >>> traced.graph_module(torch.zeros(5, 4)).shape
        torch.Size([5, 3])
    """
    if not example.ndim or not len(example):
        raise TraceError(f"the example has shape {list(example.shape)}: give a batch of at least one image")
    if len(example) < 2:  # a batch of one would be taken for a constant
        example = torch.cat([example, example])
    if any(part.training for part in module.modules()):
        raise TraceError("the model is in training mode: call .eval() first")
    graph_module = _export(module, example)
    clean_(graph_module)
    outputs = hand_out_(graph_module)
    propagation = propagate(graph_module, example)
    verify(module, propagation.batch, propagation.output)
    found = find_sites(graph_module, propagation.shapes, outputs)
    graph_module.graph.eliminate_dead_code()
    settle_meta_(graph_module)
    graph_module.graph.lint()
    graph_module.recompile()
    for op in found.uncounted:
        _logger.info("%s (%s) is not counted and stays in floating point: %s", op.name, op.op, op.reason)
    return TracedModel(graph_module, found.sites, found.uncounted, found.edges)


def _export(module: nn.Module, example: Tensor) -> fx.GraphModule:
    """Export the module, with dataclasses in its output made known to ``torch.export`` where they are not.

    Raises:
        TraceError: the model cannot be exported.
    """
    try:
        graph_module = export(module, example)
    except Exception as error:  # torch.export raises a dozen unrelated types
        if _has_new_dataclasses(module, example):
            return _export(module, example)
        raise TraceError(explain(error, module, example)) from error
    assert isinstance(graph_module, fx.GraphModule)  # noqa: S101 - narrows the declared type
    return graph_module


def _has_new_dataclasses(module: nn.Module, example: Tensor) -> bool:
    """Run the module and register the dataclasses that it returns; whether any was new."""
    try:
        with silenced(), torch.no_grad():
            return register_dataclasses(module(example.clone()))
    except Exception:  # whatever the model raises is explained with the error of the export
        return False
