"""A traced model as bytes, so that other processes that have loaded the same model need not trace it again."""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable
from dataclasses import dataclass, replace
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor, fx, nn

from autoq.errors import TraceError
from autoq.graph.explain import first_line
from autoq.graph.node_meta import NodeValue
from autoq.graph.nodes import attribute
from autoq.graph.outputs import output_dataclasses, register_dataclass
from autoq.graph.trace import TracedModel


@dataclass(frozen=True)
class _Reference:
    """Stands for a node among arguments.

    Attributes:
        name: of the node.
    """

    name: str


@dataclass(frozen=True)
class _SavedNode:
    """The fields of a node, with references in place of nodes."""

    name: str
    op: str
    target: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    meta: dict[str, Any]


@dataclass(frozen=True)
class _SavedGraph:
    """A graph, and what its nodes read by name.

    Attributes:
        nodes: in execution order.
        codegen: how arguments are taken and the output is put together.
        bound: names of what the model has under the same name.
        tensors: what it does not have, such as folded constants, and where it was, by name.
        graphs: parts of the graph that nodes call, by name.
    """

    nodes: tuple[_SavedNode, ...]
    codegen: Any
    bound: tuple[str, ...]
    tensors: dict[str, tuple[Tensor, torch.device]]
    graphs: dict[str, _SavedGraph]


def dump_traced(traced: TracedModel, module: nn.Module) -> bytes:
    """Write down a traced model without the parameters and buffers that it shares with its module.

    Args:
        traced: as :func:`autoq.graph.trace.trace` made it of ``module``.
        module: that it was made of.

    Returns:
        Pickled: whoever can change it can run code where it is loaded. The same for the same model.

    Raises:
        TraceError: the model returns an object of a class that other processes cannot import.
    """
    device = next((value.device for value in module.parameters()), torch.device("cpu"))
    graph = _saved(traced.graph_module, module)
    fields = device, output_dataclasses(traced.graph_module), graph, traced.sites, traced.uncounted, traced.edges
    stream = io.BytesIO()
    try:
        _Pickler(stream, protocol=pickle.HIGHEST_PROTOCOL).dump(fields)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise TraceError(
            f"the trace of {type(module).__name__} cannot be given to other processes: {first_line(error)}; define the "
            "classes of what the model returns at the top of a module, or use one worker"
        ) from error
    return stream.getvalue()


def load_traced(content: bytes, module: nn.Module) -> TracedModel:
    """Make the traced model again, node for node and bit for bit, on the parameters and buffers of a module.

    Args:
        content: of :func:`dump_traced`, by the same versions of PyTorch and autoq.
        module: equal to the one that was traced; its device takes the place of that one's.

    Raises:
        TraceError: the module lacks a parameter or buffer that the trace reads.

    Example:
        >>> from autoq.graph.trace import trace
        >>> model = nn.Sequential(nn.Linear(4, 8), nn.GELU(), nn.Linear(8, 3)).eval()
        >>> content = dump_traced(trace(model, torch.zeros(2, 4)), model)
        >>> x = torch.ones(5, 4)
        >>> torch.equal(load_traced(content, model).graph_module(x), model(x))
        True
    """
    loaded = pickle.loads(content)  # noqa: S301 - the caller knows whose it is
    traced_on, dataclasses_returned, graph, sites, uncounted, edges = loaded
    for kind in dataclasses_returned:  # as tracing has done where it took place
        register_dataclass(kind)
    device = next((value.device for value in module.parameters()), traced_on)

    def moved(value: Any) -> Any:
        if isinstance(value, torch.device):
            return device if value == traced_on else value
        if isinstance(value, list):
            return [moved(each) for each in value]
        return replace(value, device=moved(value.device)) if isinstance(value, NodeValue) else value

    return TracedModel(_loaded(graph, module, moved), sites, uncounted, edges)


class _Pickler(pickle.Pickler):
    """Pickles operators by their names."""

    def reducer_override(self, obj: Any) -> Any:
        if isinstance(obj, torch._ops.OpOverload):
            return _operator, (obj.namespace, obj.overloadpacket.__name__, obj._overloadname)
        if isinstance(obj, torch._ops.HigherOrderOperator):
            return getattr, (torch.ops.higher_order, obj.name())  # type: ignore[no-untyped-call]
        if isinstance(obj, Tensor):  # as it lies in memory
            stream = io.BytesIO()
            torch.save(obj, stream)
            return _tensor, (stream.getvalue(),)
        return NotImplemented


def _operator(namespace: str, name: str, overload: str) -> Any:
    return getattr(getattr(getattr(torch.ops, namespace), name), overload)


def _tensor(content: bytes) -> Tensor:
    value: Tensor = torch.load(io.BytesIO(content), weights_only=True)
    return value


def _saved(graph_module: fx.GraphModule, module: nn.Module) -> _SavedGraph:
    def referred(used: fx.Node) -> Any:
        return _Reference(used.name)

    graph = graph_module.graph
    nodes = []
    for node in graph.nodes:
        args, kwargs = fx.node.map_arg((node.args, node.kwargs), referred)
        nodes.append(_SavedNode(node.name, node.op, node.target, args, kwargs, dict(node.meta)))
    names = {str(node.target) for node in graph.nodes if node.op in ("get_attr", "call_module")}
    read = {name: attribute(graph_module, name) for name in sorted(names)}
    bound = tuple(name for name, value in read.items() if isinstance(value, Tensor) and _has(module, name, value))
    own = {name: value.detach() for name, value in read.items() if isinstance(value, Tensor) and name not in bound}
    tensors = {name: (value.cpu(), value.device) for name, value in own.items()}
    graphs = {name: _saved(value, module) for name, value in read.items() if isinstance(value, fx.GraphModule)}
    return _SavedGraph(tuple(nodes), graph._codegen, bound, tensors, graphs)


def _has(module: nn.Module, name: str, value: Tensor) -> bool:
    """Tell whether a module has this very tensor under a name."""
    try:
        return attrgetter(name)(module) is value
    except AttributeError:
        return False


def _loaded(saved: _SavedGraph, module: nn.Module, moved: Callable[[Any], Any]) -> fx.GraphModule:
    graph = fx.Graph()
    nodes: dict[str, fx.Node] = {}

    def found(value: Any) -> Any:
        return nodes[value.name] if isinstance(value, _Reference) else moved(value)

    for each in saved.nodes:
        args, kwargs = fx.node.map_aggregate((each.args, each.kwargs), found)
        node = graph.create_node(each.op, each.target, args, kwargs, each.name)
        node.meta = {key: moved(value) for key, value in each.meta.items()}
        nodes[each.name] = node
    graph.set_codegen(saved.codegen)
    held: dict[str, Any] = {name: _loaded(part, module, moved) for name, part in saved.graphs.items()}
    held |= {name: value.to(moved(where)) for name, (value, where) in saved.tensors.items()}
    for name in saved.bound:
        try:
            held[name] = attrgetter(name)(module)
        except AttributeError as error:
            raise TraceError(
                f"{type(module).__name__} has no {name!r}, which its trace reads: it is not the model that was traced"
            ) from error
    return fx.GraphModule(held, graph)
