"""A model's own modules, with the values that a recipe gives their parameters."""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor, fx, nn

from autoq.errors import ExportError
from autoq.graph.insert import OperandKey
from autoq.graph.nodes import attribute, op_name
from autoq.graph.trace import TracedModel
from autoq.scoring.quantized_module import FloatWeight, QuantizedModule, QuantizedWeight, path_of


class WeightOwner(NamedTuple):
    """Where a quantized weight is in the model's own modules.

    Attributes:
        name: of the parameter in ``state_dict``.
        path: of the module that has it.
        module: itself.
    """

    name: str
    path: str
    module: nn.Module


@dataclass(frozen=True)
class Architecture:
    """A model in full precision, as its users have it.

    Attributes:
        module: the model; left as it is.
        traced: its graph, in which tensors have the names that they have in ``module.state_dict()``.
    """

    module: nn.Module
    traced: TracedModel

    def owner(self, key: OperandKey) -> WeightOwner | str:
        """Return the module that a weight belongs to, or why it belongs to none.

        Args:
            key: of a weight of the traced model.
        """
        node = self.traced.edges[key].source(self.traced.graph_module)
        name = str(node.target)
        if node.op != "get_attr" or name not in self._parameters:
            return "it is computed of parameters"
        nodes = self.traced.graph_module.graph.nodes
        readers = [user for each in nodes if each.op == "get_attr" and each.target == name for user in each.users]
        if len(readers) > 1:
            return "several operations share it"
        path = name.rpartition(".")[0]
        return WeightOwner(name, path, self.module.get_submodule(path))

    @cached_property
    def _parameters(self) -> frozenset[str]:
        return frozenset(name for name, _ in self.module.named_parameters(remove_duplicate=False))

    def with_values(self, quantized: QuantizedModule) -> nn.Module:
        """Return a copy of the modules with the parameters of a quantized model, quantized weights as their values.

        Args:
            quantized: the model, whatever was folded into its weights; its activations are of no account.

        Raises:
            ExportError: what a recipe changed is in none of the modules' parameters.
        """
        places = {path_of(key) for key in self.traced.edges}
        called = {str(node.target) for node in quantized.model.graph.nodes if node.op == "call_module"}
        if called - places:
            raise ExportError("its LayerNorms or softmaxes compute in integers, which the model's own modules do not")
        module = copy.deepcopy(self.module)
        state = module.state_dict()
        values = dict(self._values(quantized))
        with torch.no_grad():
            for name, value in values.items():
                if name in state and state[name].shape == value.shape:
                    state[name].copy_(value)
                elif not self._is_original(name, value):
                    raise ExportError(f"{name} was changed, which the model's own modules compute: use format pt2")
            for name in self._bypassed(quantized, values):
                state[name].fill_(1)
        return module

    def _values(self, quantized: QuantizedModule) -> Iterator[tuple[str, Tensor]]:
        """Yield the tensors that a quantized model reads, by the names that the traced model has for them."""
        for node in quantized.model.graph.nodes:
            if node.op == "get_attr":
                value = attribute(quantized.model, str(node.target))
                yield self._original_name(node) or str(node.target), value
        modules = dict(quantized.model.named_modules())
        for key, edge in self.traced.edges.items():
            weight = modules.get(path_of(key))
            if isinstance(weight, QuantizedWeight | FloatWeight):
                yield str(edge.source(self.traced.graph_module).target), weight.value

    def _original_name(self, node: fx.Node) -> str | None:
        """Return what the traced model reads where a quantized one reads a tensor, which may have been rewritten."""
        places = [self._nodes.get(node.name)]
        for user in node.users:
            original, index = self._nodes.get(user.name), list(user.args).index(node) if node in user.args else -1
            if original is not None and 0 <= index < len(original.args):
                places.append(original.args[index])  # type: ignore[arg-type]
        return next((str(each.target) for each in places if isinstance(each, fx.Node) and each.op == "get_attr"), None)

    def _bypassed(self, quantized: QuantizedModule, read: Collection[str]) -> Iterator[str]:
        """Yield the factors that are in other weights now: LayerScale, whose products are gone."""
        left = {node.name for node in quantized.model.graph.nodes}
        for node in self._nodes.values():
            if node.op == "get_attr" and str(node.target) not in read:
                if str(node.target) not in self._parameters or any(
                    op_name(user) != "mul" or user.name in left for user in node.users
                ):
                    raise ExportError(
                        f"{node.target} is read no more, which the model's own modules read: use format pt2"
                    )
                yield str(node.target)

    @cached_property
    def _nodes(self) -> dict[str, fx.Node]:
        return {node.name: node for node in self.traced.graph_module.graph.nodes}

    def _is_original(self, name: str, value: Tensor) -> bool:
        """Whether a tensor that is no parameter, such as a folded constant, is that of the traced model."""
        try:
            found = attribute(self.traced.graph_module, name)
        except AttributeError:
            return False
        return torch.equal(found.to(value.device), value)
