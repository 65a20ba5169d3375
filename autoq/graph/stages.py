"""Cut a graph where few tensors are alive, so that it can be run from any cut on."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from torch import fx

from autoq.graph.node_meta import NodeValue
from autoq.graph.nodes import RANDOM, op_name

State = tuple[object, ...]
"""What is alive at a cut: tensors, and sizes that were read from them."""

_MOST_SITES = 10
"""Of a stage that is not cut again: a branch of a transformer block has six to nine."""
_MOST_BYTES = 16 << 20
"""Per image, of what the state at a further cut holds beside that at the start of what is cut."""


@dataclass(frozen=True)
class Stage:
    """A run of nodes between two cuts.

    Attributes:
        name: of the first site in it that is not optional, empty if it has none.
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


def cut_into_stages(
    graph_module: fx.GraphModule, site_of: Callable[[fx.Node], str | None], optional: Collection[str] = ()
) -> tuple[Stage, ...]:
    """Cut after each point where a single tensor is alive and at least one site has run since the last cut.

    In a residual network these are the ends of the branches: twice a transformer block. Where there is no such point
    after the first site, the least number of tensors that are alive at any takes the place of one. What lies between
    two cuts and has more sites than a branch is cut likewise, by the least number of tensors that are alive within it:
    so a decoder is cut where its own state and the encoder's are alive. Such further cuts are made only where a state
    takes at most 16 MiB per image beside what was alive before all of it: that is there once for all of them.

    Tensors that follow from parameters and sizes alone, such as an attention mask of zeros, are not kept alive but
    computed where they are read.

    Args:
        graph_module: the whole graph.
        site_of: name of the site that a node belongs to, or None.
        optional: names of sites that add, and of outputs: they are part of what is cut as if they were none.
    """

    def counted(node: fx.Node) -> str | None:
        return None if (name := site_of(node)) in optional else name

    computed_again = _independent_of_images(graph_module.graph)
    nodes = [node for node in graph_module.graph.nodes if node not in computed_again]
    alive = _alive_after(nodes)
    state = [node for node in nodes if node.op == "placeholder"]
    stages: list[Stage] = []
    start, last = len(state), _end(nodes, site_of, optional)
    for cut in [*_Cutter(nodes, alive, counted).cuts(start, last), len(nodes) - 1]:
        end = alive[cut] if cut + 1 < len(nodes) else None
        part, copies = _extract(graph_module, state, nodes[start : cut + 1], end)
        sites = {copies[node].name: site for node in nodes[start : cut + 1] if (site := site_of(node)) is not None}
        stages.append(Stage(next((name for name in sites.values() if name not in optional), ""), sites, part))
        start, state = cut + 1, alive[cut]
    return tuple(stages)


def _end(nodes: Sequence[fx.Node], site_of: Callable[[fx.Node], str | None], optional: Collection[str]) -> int:
    """Return the number of the first node of those that only hand the outputs out: their sites and slots."""
    handing = {nodes[-1]}
    for index in range(len(nodes) - 2, -1, -1):
        node, site = nodes[index], site_of(nodes[index])
        is_slot = node.op == "call_module" and site is None
        if not (is_slot or site in optional) or not handing.issuperset(node.users):
            return index + 1
        handing.add(node)
    return 0


class _Cutter:
    """Chooses where the nodes of a graph are cut."""

    def __init__(
        self,
        nodes: Sequence[fx.Node],
        alive: Sequence[Sequence[fx.Node]],
        site_of: Callable[[fx.Node], str | None],
    ) -> None:
        self._nodes, self._alive = nodes, alive
        self._width = [sum(_is_tensor(node) for node in state) for state in alive]
        self._is_site = [site_of(node) is not None for node in nodes]

    def cuts(self, start: int, stop: int, most_bytes: float = math.inf) -> list[int]:
        """Cut the nodes from ``start`` to before ``stop``; return the numbers of those after which, in order.

        Args:
            start: of the first node.
            stop: after the last one.
            most_bytes: that a state may take beside that before ``start``.
        """
        chosen = self._narrowest(start, stop, most_bytes)
        if not chosen:
            return []
        found = list(chosen)
        for before, after in pairwise([start - 1, *chosen, stop - 1]):
            if sum(self._is_site[before + 1 : after + 1]) > _MOST_SITES:
                found += self.cuts(before + 1, after + 1, _MOST_BYTES)
        return sorted(found)

    def _narrowest(self, start: int, stop: int, most_bytes: float) -> list[int]:
        """Find, between the first site and the end, the nodes after which fewest tensors are alive, behind a site."""
        first = next((index for index in range(start, stop) if self._is_site[index]), stop)
        before = set(self._alive[start - 1]) if start else set()

        def fits(index: int) -> bool:
            return most_bytes == math.inf or _bytes(set(self._alive[index]) - before) <= most_bytes

        inside = [
            index
            for index in range(first, stop - 1)
            if self._nodes[index].op.startswith("call") and self._width[index] and fits(index)
        ]
        called = (index for index in inside if self._nodes[index].op == "call_function")
        least = min((self._width[index] for index in called), default=0)
        chosen: list[int] = []
        behind = start
        for index in inside:
            if self._width[index] == least and any(self._is_site[behind : index + 1]):
                chosen.append(index)
                behind = index + 1
        return chosen


def _bytes(state: Iterable[fx.Node]) -> int:
    """Return the memory of a state's tensors per image, as far as their shapes are known."""
    values = [node.meta.get("val") for node in state]
    return sum(math.prod(value.shape) * value.dtype.itemsize for value in values if isinstance(value, NodeValue))


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
    value = node.meta.get("val")
    return value is None or isinstance(value, NodeValue | list)


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
