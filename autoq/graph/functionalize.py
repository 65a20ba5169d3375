"""Rewrite operators that overwrite a tensor, so that no node of a graph changes what another one reads.

Everything after tracing relies on this: constants are folded, stages are run again from kept states, and quantizers
stand on some of a tensor's edges. It also leaves the model's input and buffers as they are: a buffer that the model
counts in starts each call as it was when the model was traced.
"""

from __future__ import annotations

import operator
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx

from autoq.errors import TraceError
from autoq.graph.nodes import op_name

aten = torch.ops.aten

_SPLITS = {"split", "split_with_sizes", "unbind", "chunk", "tensor_split"}
"""Views in parts that do not overlap."""


class View(NamedTuple):
    """A view of a tensor.

    Attributes:
        target: the ATen operator that takes it.
        args: its arguments after the tensor.
        kwargs: its keyword arguments.
        item: which of the views, for an operator that returns several; None for the view, or for all of them.
    """

    target: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    item: int | None


@dataclass(frozen=True)
class _Alias:
    """What a node's result shares memory with.

    Attributes:
        base: the node that the memory comes from.
        views: lead from ``base`` to the node; None where they are not known.
    """

    base: fx.Node
    views: tuple[View, ...] | None


def write_view(base: Tensor, value: Tensor, views: Sequence[tuple[Any, ...]]) -> Tensor:
    """Copy ``base`` and write ``value`` into a view of the copy.

    Args:
        base: of any shape.
        value: of the shape of the view.
        views: fields of each :class:`View` on the way from ``base``, in order.

    Example:
        >>> select_column = (torch.ops.aten.select.int, (1, 0), {}, None)
        >>> write_view(torch.zeros(2, 2), torch.ones(2), [select_column])
        tensor([[1., 0.],
                [1., 0.]])
    """
    copy = base.clone()
    view: Any = copy
    for target, args, kwargs, item in views:
        view = target(view, *args, **kwargs)
        view = view if item is None else view[item]
    view.copy_(value)
    return copy


def functionalize_(graph_module: fx.GraphModule) -> None:
    """Replace in-place operators (``relu_``, ``copy_`` into a view, ``out=``) by ones that return a new tensor.

    Whatever reads the overwritten memory later, through any view of it, reads the new values. Results stay the same
    bit for bit.

    Args:
        graph_module: as ``torch.export`` made it; which results share memory is told from the storages of the fake
            tensors in its nodes' ``meta``.

    Raises:
        TraceError: an operator that overwrites its arguments cannot be replaced; the message names it.
    """
    aliases = _Aliases(graph_module.graph)
    for node in list(graph_module.graph.nodes):
        aliases.add_(node)
        if _is_mutable(node):
            with graph_module.graph.inserting_before(node):
                _Rewriter(node, aliases).rewrite_()
            graph_module.graph.erase_node(node)


def _is_mutable(node: fx.Node) -> bool:
    return isinstance(node.target, torch._ops.OpOverload) and node.target._schema.is_mutable


def _storage(node: fx.Node) -> int | None:
    """Identify the memory of a node's result, of the first one if there are several; None if it is no tensor."""
    value = node.meta.get("val")
    value = value[0] if isinstance(value, list | tuple) and value else value
    return value.untyped_storage()._cdata if isinstance(value, Tensor) else None


class _Aliases(dict[fx.Node, _Alias]):
    """What the nodes of a graph share memory with, for those that give a tensor.

    Fake tensors tell which result shares memory with which argument as the graph was traced. What memory an argument
    has once nodes are replaced follows from the graph.
    """

    def __init__(self, graph: fx.Graph) -> None:
        super().__init__()
        self._first: dict[int, fx.Node] = {}
        self._storages: dict[fx.Node, int] = {}
        self._shared: dict[fx.Node, int | None] = {}
        for node in graph.nodes:
            self._note_(node)

    def add_(self, node: fx.Node) -> None:
        """Take in a node, after those that it reads."""
        if node not in self._shared:
            self._note_(node)
        if node not in self._storages:
            return
        shared = self._shared[node]
        if _is_mutable(node):
            self[node] = self[_written_argument(node)]
        elif shared is not None:
            source = node.all_input_nodes[shared]
            self[node] = _Alias(self[source].base, self._views(node, source))
        elif (first := self._first[self._storages[node]]) is node:
            self[node] = _Alias(node, ())
        else:  # a parameter or buffer that was read before, or a view that is taken of several tensors at once
            again = (node.target, node.args) == (first.target, first.args)
            self[node] = _Alias(self[first].base, () if again else None)

    def sharing(self, node: fx.Node) -> Iterator[fx.Node]:
        """Yield the nodes that share memory with ``node``, itself among them."""
        base = self[node].base
        return (other for other, alias in self.items() if alias.base is base)

    def _note_(self, node: fx.Node) -> None:
        """Note which of its arguments a node shares memory with."""
        storage = _storage(node)
        inputs = enumerate(node.all_input_nodes)
        self._shared[node] = next((i for i, source in inputs if self._storages.get(source, -1) == storage), None)
        of_its_own = self._shared[node] is None
        if storage is not None and not (of_its_own and isinstance(node.meta["val"], list | tuple)):  # its parts follow
            self._storages[node] = storage
            self._first.setdefault(storage, node)

    def _views(self, node: fx.Node, source: fx.Node) -> tuple[View, ...] | None:
        """Lead from the base of ``source`` to its view ``node``."""
        before = self[source].views
        if before is None or source is not node.args[0]:
            return None
        if node.target is operator.getitem:
            return (*before[:-1], before[-1]._replace(item=node.args[1]))  # type: ignore[arg-type]
        return (*before, View(node.target, tuple(node.args[1:]), dict(node.kwargs), None))


def _written_argument(node: fx.Node) -> fx.Node:
    """Find the one argument that a node overwrites.

    Raises:
        TraceError: it overwrites several.
    """
    schema = node.target._schema  # type: ignore[union-attr]
    bound = dict(node.kwargs) | dict(zip((argument.name for argument in schema.arguments), node.args, strict=False))
    written = [bound.get(a.name) for a in schema.arguments if a.alias_info is not None and a.alias_info.is_write]
    if len(written) != 1 or not isinstance(written[0], fx.Node):
        raise TraceError(_refusal(node, "overwrites several tensors"))
    return written[0]


class _Rewriter:
    """Replaces one node that overwrites a tensor; new nodes go where the graph inserts them."""

    def __init__(self, node: fx.Node, aliases: _Aliases) -> None:
        self._node = node
        self._aliases = aliases
        self._written = _written_argument(node)

    def rewrite_(self) -> None:
        """Give the later readers of the overwritten memory the new values; the node itself is left without users."""
        value = self._value()
        if _storage(value) == _storage(self._written):  # only the shape changed: unsqueeze_
            self._redirect_({self._written: value, self._node: value})
            return
        alias = self._aliases[self._written]
        read = [other for other in self._aliases.sharing(self._written) if self._is_read_later(other)]
        views = {other: self._aliases[other].views for other in read}
        same = {other for other in read if other in (self._written, self._node) or _are_same(views[other], alias.views)}
        if all(other in same or _are_apart(views[other], alias.views) for other in read):
            self._redirect_(dict.fromkeys(same, value))
            return
        if alias.views is None or None in views.values():
            raise TraceError(_refusal(self._node, "overwrites memory that is shared in an unknown way"))
        base = value
        if alias.views:
            base = self._call(write_view, (alias.base, value, [tuple(view) for view in alias.views]))
        made: dict[tuple[Any, ...], fx.Node] = {}
        self._redirect_({other: self._view(base, views[other] or (), made) for other in read})

    def _value(self) -> fx.Node:
        """Compute what the overwritten tensor holds afterwards."""
        functional = _functional(self._node.target)  # type: ignore[arg-type]
        if functional is None:
            raise TraceError(_refusal(self._node, "overwrites its input and has no form that does not"))
        names = {argument.name for argument in functional._schema.arguments}
        value = self._call(functional, self._node.args, {k: v for k, v in self._node.kwargs.items() if k in names})
        dtype = self._written.meta["val"].dtype
        if value.meta["val"].dtype != dtype:  # the type of the overwritten tensor stays
            value = self._call(aten._to_copy.default, (value,), {"dtype": dtype})
        return value

    def _view(self, base: fx.Node, views: tuple[View, ...], made: dict[tuple[Any, ...], fx.Node]) -> fx.Node:
        """Take the same views of another base; ``made`` holds those that were taken already."""
        node = base
        for index, view in enumerate(views):
            whole = (str(views[:index]), str(view._replace(item=None)))
            if whole not in made:
                made[whole] = self._call(view.target, (node, *view.args), view.kwargs)
            node = made[whole]
            if view.item is not None:
                item = (*whole, view.item)
                if item not in made:
                    made[item] = self._call(operator.getitem, (node, view.item))
                node = made[item]
        return node

    def _call(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any] | None = None) -> fx.Node:
        created = self._node.graph.call_function(target, args, kwargs or {})
        created.meta = {key: value for key, value in self._node.meta.items() if key != "val"}
        fake_args, fake_kwargs = fx.node.map_arg((created.args, created.kwargs), lambda node: node.meta["val"])
        created.meta["val"] = target(*fake_args, **fake_kwargs)
        self._aliases.add_(created)
        return created

    def _is_read_later(self, other: fx.Node) -> bool:
        return any(self._node < user for user in other.users)

    def _redirect_(self, replacements: dict[fx.Node, fx.Node]) -> None:
        for old, new in replacements.items():
            old.replace_all_uses_with(new, delete_user_cb=lambda user: self._node < user)


def _functional(target: torch._ops.OpOverload) -> torch._ops.OpOverload | None:
    """Find the operator that returns what ``target`` writes: ``add.Tensor`` for ``add_.Tensor`` and ``add.out``."""
    schema = target._schema
    name = str(target.overloadpacket.__name__)
    if any(argument.is_out for argument in schema.arguments):
        expected = [argument.name for argument in schema.arguments if not argument.is_out]
        overloads = [getattr(target.overloadpacket, overload) for overload in target.overloadpacket.overloads()]
        same = (o for o in overloads if [argument.name for argument in o._schema.arguments] == expected)
        return next((overload for overload in same if not overload._schema.is_mutable), None)
    functional = f"__{name[3:]}" if name.startswith("__i") else name.removesuffix("_")
    packet = getattr(getattr(torch.ops, target.namespace), functional, None)
    found = getattr(packet, target._overloadname, None)
    return None if found is None or found._schema.is_mutable else found


def _are_same(views: tuple[View, ...] | None, others: tuple[View, ...] | None) -> bool:
    """Whether two chains of views lead to the same entries, as far as is known."""
    return views is not None and views == others


def _are_apart(views: tuple[View, ...] | None, others: tuple[View, ...] | None) -> bool:
    """Whether two chains of views lead to different parts of one split."""
    for view, other in zip(views or (), others or (), strict=False):
        if view != other:
            parts_of_one = None not in (view.item, other.item) and view._replace(item=None) == other._replace(item=None)
            return parts_of_one and view.target.overloadpacket.__name__ in _SPLITS
    return False


def _refusal(node: fx.Node, reason: str) -> str:
    return f"cannot trace the model: {op_name(node)} {reason}; write it without changing tensors in place"
