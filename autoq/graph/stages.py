"""Cut a graph where few tensors are alive, so that it can be run from any cut on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor, fx

from autoq.graph.nodes import RANDOM, op_name

State = tuple[object, ...]
"""What is alive at a cut: tensors, and sizes that were read from them."""


@dataclass(frozen=True)
class Stage:
    """A run of nodes between two cuts.

    Attributes:
        name: of the first site in it, empty if it has none.
        site_nodes: name of the node to name of the site, for the sites in it, in execution order.
        graph_module: takes the state at its start as positional arguments, returns the state at its end; the last
            stage returns the model's output.
    """

    name: str
    site_nodes: dict[str, str]
    graph_module: fx.GraphModule

    @property
    def sites(self) -> tuple[str, ...]:
        """Names of the sites in it, in execution order."""
        return tuple(self.site_nodes.values())


def cut_into_stages(graph_module: fx.GraphModule, site_of: Callable[[fx.Node], str | None]) -> tuple[Stage, ...]:
    """Cut after each point where a single tensor is alive and at least one site has run since the last cut.

    In a residual network these are the ends of the branches: twice a transformer block. Where there is no such point
    after the first site, the least number of tensors that are alive at any takes the place of one. Tensors that follow
    from parameters and sizes alone, such as an attention mask of zeros, are not kept alive but computed where they are
    read.

    Args:
        graph_module: the whole graph.
        site_of: name of the site that a node belongs to, or None.
    """
    computed_again = _independent_of_images(graph_module.graph)
    nodes = [node for node in graph_module.graph.nodes if node not in computed_again]
    alive = _alive_after(nodes)
    width = [sum(_is_tensor(node) for node in state) for state in alive]
    first = next((index for index, node in enumerate(nodes) if site_of(node) is not None), len(nodes))
    interior = [width[index] for index in range(first, len(nodes)) if nodes[index].op == "call_function"]
    narrowest = min(filter(None, interior[:-1]), default=0)
    stages: list[Stage] = []
    start, sites = 0, dict[fx.Node, str]()
    state: Sequence[fx.Node] = [node for node in nodes if node.op == "placeholder"]
    for index, node in enumerate(nodes):
        if node.op == "placeholder":
            start = index + 1
            continue
        if (site := site_of(node)) is not None:
            sites[node] = site
        last = node.op == "output"
        if last or (sites and width[index] == narrowest and nodes[index + 1].op != "output"):
            end = None if last else alive[index]
            part, copies = _extract(graph_module, state, nodes[start : index + 1], end)
            site_nodes = {copies[node].name: site for node, site in sites.items()}
            stages.append(Stage(next(iter(sites.values()), ""), site_nodes, part))
            start, sites, state = index + 1, {}, alive[index]
    return tuple(stages)


def _independent_of_images(graph: fx.Graph) -> set[fx.Node]:
    """Find the parameters, and what is computed from them and from sizes alone, the same each time."""
    found: set[fx.Node] = set()
    for node in graph.nodes:
        repeatable = node.op == "call_function" and op_name(node) not in RANDOM and _is_tensor(node)
        if node.op == "get_attr" or (
            repeatable and all(source in found or not _is_tensor(source) for source in node.all_input_nodes)
        ):
            found.add(node)
    return found


def _alive_after(nodes: Sequence[fx.Node]) -> list[list[fx.Node]]:
    """For each node, the values that later nodes still need."""
    position = {node: index for index, node in enumerate(nodes)}

    def last(node: fx.Node) -> int:
        """Find the last reader of a node, of those too that read what is computed again from it."""
        return max((position[user] if user in position else last(user) for user in node.users), default=-1)

    last_use = {node: last(node) for node in nodes}
    alive: list[list[fx.Node]] = []
    current: list[fx.Node] = []
    for index, node in enumerate(nodes):
        current = [value for value in [*current, node] if last_use[value] > index]
        alive.append(current)
    return alive


def _is_tensor(node: fx.Node) -> bool:
    value = node.meta.get("val", node.meta.get("tensor_meta"))
    return isinstance(value, Tensor) or hasattr(value, "shape") or value is None or isinstance(value, list | tuple)


def _extract(
    graph_module: fx.GraphModule, inputs: Sequence[fx.Node], nodes: Sequence[fx.Node], outputs: Sequence[fx.Node] | None
) -> tuple[fx.GraphModule, dict[fx.Node, fx.Node]]:
    """A graph of its own from a run of nodes, and where each node went; parameters and submodules are shared."""
    graph = fx.Graph()
    copies: dict[fx.Node, fx.Node] = {node: graph.placeholder(node.name) for node in inputs}

    def copy_of(node: fx.Node) -> fx.Node:
        if node not in copies:  # parameters are read, and what follows from them computed, in the stage that uses them
            copies[node] = graph.node_copy(node, copy_of)
        return copies[node]

    for node in nodes:
        if node.op == "output":
            graph.output(fx.node.map_arg(node.args[0], copy_of))
        else:
            copies[node] = graph.node_copy(node, copy_of)
    if outputs is not None:
        graph.output(tuple(copies[node] for node in outputs))
    return fx.GraphModule(graph_module, graph), copies
