"""Put quantizers on the operand edges of a traced model, and take them off again."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from autoq.errors import RecipeError
from autoq.graph.outputs import output_spec
from autoq.graph.stages import Stage, State, cut_into_stages
from autoq.graph.trace import TracedModel
from autoq.recipe import OperandConfig, SiteConfig
from autoq.validation import did_you_mean

OperandKey = tuple[str, str]
"""(site, operand)."""


class OperandSlot(nn.Module):
    """A place on an operand edge: passes its input through, or through the quantizer in it."""

    def __init__(self) -> None:
        """Start empty."""
        super().__init__()
        self.quantizer: nn.Module | None = None

    def forward(self, x: Tensor) -> Tensor:
        """Fake-quantize ``x``, or return it untouched."""
        return x if self.quantizer is None else self.quantizer(x)


class OperationSlot(nn.Module):
    """Runs a LayerNorm or softmax node as traced, or the operation that was put in its place."""

    def __init__(self, original: Callable[..., Tensor]) -> None:
        """Start with the operator of the traced node."""
        super().__init__()
        self.original = original
        self.replacement: nn.Module | None = None

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        """Compute the node's result; the replacement takes the arguments of the ATen operator."""
        operation = self.original if self.replacement is None else self.replacement
        return operation(*args, **kwargs)


class FixedTensor(nn.Module):
    """Stands in a weight's slot and returns what the weight was quantized to, so that this is done once.

    Attributes:
        value: the quantized weight.
        config: how it was quantized, or None.
    """

    def __init__(self, value: Tensor, config: OperandConfig | None = None) -> None:
        """Keep ``value``; nothing is copied."""
        super().__init__()
        self.config = config
        self.register_buffer("value", value, persistent=False)
        self.value: Tensor

    def forward(self, x: Tensor) -> Tensor:  # noqa: ARG002 - the weight it replaces
        """Return the stored tensor, whatever the input."""
        return self.value


class QuantizedModel(nn.Module):
    """A copy of a traced graph with a slot on every operand edge, cut into stages.

    Parameters are shared with the traced model. With every slot empty the output equals the traced model's bit for bit.

    Example:
        >>> import torch
        >>> from autoq.graph.trace import trace
        >>> class Halve(nn.Module):
        ...     def forward(self, x: Tensor) -> Tensor:
        ...         return x / 2
        >>> module = nn.Sequential(nn.Linear(4, 4, bias=False), nn.ReLU()).eval()
        >>> x = torch.ones(2, 4)
        >>> model = QuantizedModel(trace(module, x))
        >>> model.insert_({("0", "input"): Halve()})
        >>> torch.equal(model(x), module(x / 2))
        True
        >>> model.remove_()
        >>> torch.equal(model(x), module(x))
        True

    Attributes:
        traced: the model underneath.
        slots: (site, operand) to its slot.
        operations: LayerNorm and softmax sites to the slot that runs them.
        stages: the graph in pieces; running them in order runs the model.
        stage_of: (site, operand) to the number of the stage that its slot is in.
        stage_of_operation: LayerNorm and softmax sites to the number of their stage.
    """

    def __init__(self, traced: TracedModel) -> None:
        """Copy the graph and place empty slots."""
        super().__init__()
        self.traced = traced
        graph = fx.Graph()
        copies: dict[fx.Node, fx.Node] = {}
        output = graph.graph_copy(traced.graph_module.graph, copies)
        graph.output(output)
        root = nn.Module()
        self.slots: dict[OperandKey, OperandSlot] = {}
        self.operations: dict[str, OperationSlot] = {}
        by_name = {node.name: copies[node] for node in traced.graph_module.graph.nodes if node in copies}
        site_of_node = self._place_slots_(graph, root, by_name)
        whole = fx.GraphModule(_Both(traced.graph_module, root), graph)
        optional = {site.name for site in traced.sites if site.is_optional}
        self.stages: tuple[Stage, ...] = cut_into_stages(whole, site_of_node.get, optional)
        self.stage_modules = nn.ModuleList(stage.graph_module for stage in self.stages)
        stage_of_call = {
            node.target: index
            for index, stage in enumerate(self.stages)
            for node in stage.graph_module.graph.nodes
            if node.op == "call_module"
        }
        names = {module: name for name, module in root.named_children()}
        self.stage_of = {key: stage_of_call[names[slot]] for key, slot in self.slots.items()}
        self.stage_of_operation = {site: stage_of_call[names[slot]] for site, slot in self.operations.items()}
        self._out_spec = output_spec(traced.graph_module)
        self.train(mode=False)

    @property
    def output_names(self) -> tuple[str, ...]:
        """Name of each tensor that ``run`` returns, in order: ``logits``, ``0``, ``aux.1``; "" for a bare tensor."""
        return self.traced.output_names

    def insert_(self, quantizers: Mapping[OperandKey, nn.Module]) -> None:
        """Fill the slots named in ``quantizers``; the others keep what they hold.

        Raises:
            RecipeError: there is no such site or operand.
        """
        self.check_keys(quantizers)
        for key, quantizer in quantizers.items():
            self.slots[key].quantizer = quantizer

    def replace_(self, operations: Mapping[str, nn.Module]) -> None:
        """Run these LayerNorm and softmax sites by other modules, which take the ATen operator's arguments.

        Raises:
            RecipeError: there is no such site.
        """
        for site, operation in operations.items():
            if site not in self.operations:
                raise RecipeError(f"{site!r} is no LayerNorm or softmax.{did_you_mean(site, self.operations)}")
            self.operations[site].replacement = operation

    def remove_(self, keys: Iterable[OperandKey] | None = None) -> None:
        """Empty the slots named in ``keys``, or all of them; without ``keys``, undo ``replace_`` as well."""
        if keys is None:
            for operation in self.operations.values():
                operation.replacement = None
        chosen = list(self.slots if keys is None else keys)
        self.check_keys(chosen)
        for key in chosen:
            self.slots[key].quantizer = None

    def configuration(self) -> dict[str, SiteConfig]:
        """Collect what the filled slots hold: site to operand to the configuration of the module in its slot."""
        sites: dict[str, SiteConfig] = {}
        for (site, operand), slot in self.slots.items():
            if slot.quantizer is not None:
                sites.setdefault(site, {})[operand] = getattr(slot.quantizer, "config", None)  # type: ignore[assignment]
        return sites

    def check_keys(self, keys: Iterable[OperandKey]) -> None:
        """Refuse sites and operands that the model does not have.

        Raises:
            RecipeError: names the first such site or operand, and the nearest one that exists.
        """
        for key in keys:
            self._check_key(key)

    def forward(self, x: Tensor) -> object:
        """Run the model on images of shape (N, C, H, W); the output has the structure and types of the original's."""
        leaves = self.run_stages(range(len(self.stages)), (x,))
        return pytree.tree_unflatten(list(leaves), self._out_spec) if self._out_spec else leaves[0]

    def run(self, x: Tensor, first: int = 0, state: State | None = None) -> tuple[Tensor, ...]:
        """Run the model from stage ``first`` on and return its output tensors, which ``output_names`` names.

        Args:
            x: images of shape (N, C, H, W); ignored when ``state`` is given.
            first: stage to start with.
            state: what is alive at the start of that stage, as returned by ``run_stage`` for the one before.
        """
        last = self.run_stages(range(first, len(self.stages)), (x,) if state is None else state)
        return tuple(leaf for leaf in last if isinstance(leaf, Tensor))

    def run_stages(self, stages: Iterable[int], state: State) -> State:
        """Run consecutive stages on the state before the first of them, and return the one after the last."""
        for index in stages:
            state = self.run_stage(index, state)
        return state

    def run_stage(self, index: int, state: State) -> State:
        """Run stage ``index`` on the state before it and return the one after; after the last, the output leaves."""
        result = self.stages[index].graph_module(*state)
        return tuple(result) if isinstance(result, tuple | list) else (result,)

    def _place_slots_(self, graph: fx.Graph, root: nn.Module, by_name: Mapping[str, fx.Node]) -> dict[fx.Node, str]:
        """Put a slot on every operand edge and around every LayerNorm and softmax; return the sites' nodes."""
        site_of_node: dict[fx.Node, str] = {}
        for index, (key, edge) in enumerate(self.traced.edges.items()):
            node = by_name[edge.node]
            slot, name = OperandSlot(), f"slot_{index}"
            self.slots[key] = slot
            root.add_module(name, slot)
            with graph.inserting_before(node):
                inserted = graph.call_module(name, (edge.of(node),))
            inserted.meta = dict(edge.of(node).meta)
            replace_argument_(node, edge.index, edge.item, inserted)
            site_of_node[node] = key[0]
            if self.traced.sites_by_name[key[0]].op in ("layer_norm", "softmax"):
                self.operations[key[0]] = _into_slot_(node, root, f"operation_{index}")
        return site_of_node

    def _check_key(self, key: OperandKey) -> None:
        if key in self.slots:
            return
        site, operand = key
        known = self.traced.sites_by_name
        if site not in known:
            raise RecipeError(f"the model has no site {site!r}.{did_you_mean(site, known)}")
        names = [o.name for o in known[site].operands]
        raise RecipeError(f"site {site!r} has no operand {operand!r}; it has {', '.join(names)}")


class _Both(nn.Module):
    """Attribute look-up in two modules, for building a graph over both."""

    def __init__(self, first: nn.Module, second: nn.Module) -> None:
        super().__init__()
        for module in (first, second):
            for name, child in module.named_children():
                self.add_module(name, child)
            for name, parameter in module.named_parameters(recurse=False):
                self.register_parameter(name, parameter)
            for name, buffer in module.named_buffers(recurse=False):
                self.register_buffer(name, buffer, persistent=False)


def replace_argument_(node: fx.Node, index: int, item: int | None, new: fx.Node) -> None:
    """Put another node in place of ``node.args[index]``, or of ``node.args[index][item]``."""
    if item is None:
        node.update_arg(index, new)
    else:
        items = list(node.args[index])  # type: ignore[arg-type]
        items[item] = new
        node.update_arg(index, items)


def _into_slot_(node: fx.Node, root: nn.Module, name: str) -> OperationSlot:
    """Turn an operator's node into the call of a slot that runs it."""
    slot = OperationSlot(node.target)  # type: ignore[arg-type]
    root.add_module(name, slot)
    node.op, node.target = "call_module", name
    return slot
