"""A quantized model as a normal module, which needs neither bank nor run directory."""

from __future__ import annotations

import copy
from collections.abc import Collection, Mapping
from typing import Any, Self

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from autoq.calibration.transforms.folded import FoldedTransforms
from autoq.calibration.transforms.integer_operations import integer_operations
from autoq.graph.insert import OperandKey, replace_argument_
from autoq.graph.nodes import attribute
from autoq.graph.outputs import output_spec
from autoq.graph.trace import TracedModel
from autoq.quantizers import BaseQuantizer
from autoq.recipe import Recipe
from autoq.scoring.solved_operands import SolvedOperands

_ROOT = "quantizers"
"""Submodule that holds the quantizers, by site and operand."""


class QuantizedWeight(nn.Module):
    """A weight as integer codes and the quantizer that reads them; what it stands for is computed once.

    Attributes:
        quantizer: reads the codes.
        codes: of the weight's shape; one byte each, up to 8 bits.
        value: what the codes stand for, of the weight's shape and type; no part of the state.
    """

    codes: Tensor
    value: Tensor

    def __init__(self, quantizer: BaseQuantizer, codes: Tensor, dtype: torch.dtype) -> None:
        """Take codes from 0 to 2^bits (2^bits − 1 but for the extra level of published logarithms)."""
        super().__init__()
        self.quantizer = quantizer
        wide = quantizer.config.bits > 8 or int(codes.max()) > 255
        self.register_buffer("codes", codes.to(torch.int32 if wide else torch.uint8))
        self.register_buffer("value", self._read(dtype), persistent=False)
        self.register_load_state_dict_post_hook(_read_again)  # type: ignore[no-untyped-call]

    def forward(self) -> Tensor:
        """Return the quantized weight, of the weight's shape."""
        return self.value

    def _read(self, dtype: torch.dtype) -> Tensor:
        with torch.no_grad():
            return self.quantizer.dequantize(self.codes.to(torch.int32)).to(dtype)


def _read_again(module: nn.Module, _: Any) -> None:
    """Compute a weight from the codes that have been loaded; after its quantizer, which is a submodule, has been."""
    if isinstance(module, QuantizedWeight):
        module.value = module._read(module.value.dtype)


class FloatWeight(nn.Module):
    """A weight in floating point, in the place of a :class:`QuantizedWeight`.

    Attributes:
        value: the weight, of its shape and type.
    """

    value: Tensor

    def __init__(self, value: Tensor) -> None:
        """Keep a copy of ``value``."""
        super().__init__()
        self.register_buffer("value", value.detach().clone())

    def forward(self) -> Tensor:
        """Return the weight."""
        return self.value


class QuantizedModule(nn.Module):
    """A model that predicts as its recipe says.

    It takes what the original takes and returns what the original returns, of the same types. Weights are kept as
    integer codes; nothing is shared with the original, and no bank or run directory is needed. ``state_dict``, ``to``,
    ``torch.save`` and ``torch.export`` work as with any module. It is for evaluation: dropout and the like are gone.

    Attributes:
        recipe: how each operand is quantized.
        model: the model, as a graph of ATen operators with quantizers in it.
        input_name: what the original calls its input.
        folded: what was folded into the model's weights.
        preprocessing: how an image becomes the input, as plain JSON; None where only code says so.

    Examples:
        >>> import autoq
        >>> quantized = autoq.quantize("vit_digits", "rtn", images="digits", bits="w4a8", calib_images=8)
        >>> codes = quantized.codes["blocks.0.attn.qkv", "weight"]
        >>> int(codes.max()) < 2**4
        True
    """

    def __init__(
        self,
        traced: TracedModel,
        operands: SolvedOperands,
        recipe: Recipe,
        input_name: str = "x",
        *,
        folded: FoldedTransforms | None = None,
        preprocessing: Mapping[str, Any] | None = None,
    ) -> None:
        """Copy a traced model and put quantizers in.

        Args:
            traced: the model, changed as the recipe says.
            operands: the quantizers of all operands of the recipe.
            recipe: what they make up.
            input_name: what the original calls its input, for callers that name it.
            folded: what was folded into the weights of ``traced``.
            preprocessing: how an image becomes the input, as plain JSON.

        Raises:
            RecipeError: schemes of the recipe do not fit together.
        """
        super().__init__()
        self.recipe, self.input_name = recipe, input_name
        self.folded = folded or FoldedTransforms()
        self.preprocessing = None if preprocessing is None else dict(preprocessing)
        self._quantizers = dict.fromkeys(operands.quantizers)
        self.model = _quantized_graph(traced, operands)
        self._out_spec = output_spec(traced.graph_module)
        self.train(mode=False)

    def forward(self, x: Tensor | None = None, /, **named: Tensor) -> Any:
        """Run the model with quantized operands; ``x`` has shape (N, ...), and the output the original's structure.

        Args:
            x: the input, of shape (N, ...).
            named: the same, by the name that the original has for it.

        Raises:
            TypeError: there is no input, or something else besides.
        """
        given = named if x is None else {self.input_name: x, **named}
        if given.keys() != {self.input_name} or (x is not None and named):
            raise TypeError(
                f"a quantized model takes one tensor, {self.input_name!r}, not {', '.join(given) or 'none'}"
            )
        result = self.model(given[self.input_name])
        leaves = list(result) if isinstance(result, tuple | list) else [result]
        return leaves[0] if self._out_spec is None else pytree.tree_unflatten(leaves, self._out_spec)

    @property
    def quantizers(self) -> dict[OperandKey, BaseQuantizer]:
        """The quantizer of every quantized operand, weights included, by (site, operand)."""
        found: dict[OperandKey, BaseQuantizer] = {}
        for key in self._quantizers:
            module = self.model.get_submodule(path_of(key))
            quantizer = module.quantizer if isinstance(module, QuantizedWeight) else module
            assert isinstance(quantizer, BaseQuantizer)  # noqa: S101 - nn.Module's attributes are declared loosely
            found[key] = quantizer
        return found

    @property
    def codes(self) -> dict[OperandKey, Tensor]:
        """The integer codes of every quantized weight, by (site, operand)."""
        modules = {key: self.model.get_submodule(path_of(key)) for key in self._quantizers}
        return {key: module.codes for key, module in modules.items() if isinstance(module, QuantizedWeight)}

    def without(self, keys: Collection[OperandKey]) -> Self:
        """Return a copy with some operands in floating point.

        Weights keep the values that their codes stand for; activations are no longer rounded.

        Args:
            keys: quantized operands.
        """
        changed = copy.deepcopy(self)
        for key in keys:
            found = changed.model.get_submodule(path_of(key))
            left = FloatWeight(found.value) if isinstance(found, QuantizedWeight) else nn.Identity()
            changed.model.set_submodule(path_of(key), left)
            del changed._quantizers[key]
        sites = {
            site: {name: config for name, config in operands.items() if (site, name) not in keys}
            for site, operands in self.recipe.sites.items()
        }
        changed.recipe = self.recipe.model_copy(update={"sites": {site: left for site, left in sites.items() if left}})
        return changed

    def extra_repr(self) -> str:
        """Describe the model and count its quantized operands."""
        return f"{self.recipe.model.name}, {len(self._quantizers)} operands quantized"


def _quantized_graph(traced: TracedModel, operands: SolvedOperands) -> fx.GraphModule:
    """Copy the graph so that its edges call quantizers; parameters are copied, replaced weights dropped."""
    graph, modules = fx.Graph(), nn.Module()
    copies: dict[fx.Node, fx.Node] = {}
    output = graph.graph_copy(traced.graph_module.graph, copies)
    graph.output(output)
    by_name = {node.name: copies[node] for node in traced.graph_module.graph.nodes if node in copies}
    for key, quantizer in operands.quantizers.items():
        edge = traced.edges[key]
        node = by_name[edge.node]
        own = copy.deepcopy(quantizer)
        is_weight = traced.sites_by_name[key[0]].operand(key[1]).is_weight
        if is_weight:
            weight, codes = traced.weight(*key), operands.codes.get(key)
            with torch.no_grad():
                codes = own.quantize(weight) if codes is None else codes.to(weight.device)
            _add_(modules, path_of(key), QuantizedWeight(own, codes, weight.dtype))
        else:
            _add_(modules, path_of(key), own)
        with graph.inserting_before(node):
            called = graph.call_module(path_of(key), () if is_weight else (edge.of(node),))
        replace_argument_(node, edge.index, edge.item, called)
    operations = integer_operations(traced, operands.sites, lambda site, operand, _: operands.quantizers[site, operand])
    for site, operation in operations.items():
        node = by_name[traced.edges[site, "input"].node]
        path = f"{_ROOT}.{site}.operation"
        _add_(modules, path, copy.deepcopy(operation))
        node.op, node.target = "call_module", path
    for each in traced.sites:
        if each.op == "output":  # its node only marks where the quantizer goes
            node = by_name[traced.edges[each.name, "input"].node]
            node.replace_all_uses_with(node.args[0])  # type: ignore[arg-type]
            graph.erase_node(node)
    for node in list(graph.nodes):
        if node.op == "get_attr" and not node.users:  # a weight that its codes have replaced
            graph.erase_node(node)
    return _with_own_parameters(traced.graph_module, modules, graph)


def _with_own_parameters(original: fx.GraphModule, modules: nn.Module, graph: fx.Graph) -> fx.GraphModule:
    """Make a graph module with copies of the tensors that the graph reads, and with new submodules."""
    attributes: dict[str, Any] = {}
    for node in graph.nodes:
        if node.op == "get_attr":
            attributes[node.target] = _copied(attribute(original, node.target))
        elif node.op == "call_module":
            attributes[node.target] = modules.get_submodule(node.target)
    return fx.GraphModule(attributes, graph)


def _copied(value: Any) -> Any:
    if isinstance(value, nn.Parameter):
        return nn.Parameter(value.detach().clone(), requires_grad=value.requires_grad)
    return value.detach().clone() if isinstance(value, Tensor) else copy.deepcopy(value)


def path_of(key: OperandKey) -> str:
    """Return the name of an operand's submodule in the graph of a quantized module.

    Of a layer that is called twice, ``site@2`` becomes ``site#2``: torch.export takes ``x@2`` for a copy of ``x``.
    """
    site, operand = key
    return f"{_ROOT}.{site.replace('@', '#')}.{operand}"


def _add_(root: nn.Module, path: str, module: nn.Module) -> None:
    """Add a submodule, and plain modules on the way to it."""
    *parents, name = path.split(".")
    for parent in parents:
        if not hasattr(root, parent):
            root.add_module(parent, nn.Module())
        root = getattr(root, parent)
    root.add_module(name, module)
