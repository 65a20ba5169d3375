"""Tensors in the middle of a model: operands and outputs of sites, states after stages, and how to get at them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, fx

from autoq.errors import RecipeError
from autoq.graph.find import OperandEdge
from autoq.graph.insert import QuantizedModel
from autoq.graph.stages import State
from autoq.validation import did_you_mean


@dataclass(frozen=True)
class Cut:
    """A tensor of the graph: the result of a stage's node, or an entry of the state after the stage.

    Attributes:
        name: unique; of the site, for a site's output.
        stage: index of the stage.
        node: whose result it is; None for an entry of the state.
        leaf: which entry.
    """

    name: str
    stage: int
    node: str | None = None
    leaf: int = 0


@dataclass(frozen=True)
class Call:
    """A node of a stage, about to be run.

    Attributes:
        operation: takes ``args`` and ``kwargs``.
        args: of the node.
        kwargs: of the node.
    """

    operation: Callable[[tuple[Any, ...], dict[str, Any]], Tensor]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    def run(self) -> Tensor:
        """Compute the node's result."""
        return self.operation(self.args, self.kwargs)

    def operand(self, edge: OperandEdge) -> Tensor:
        """Get an operand of a site's node."""
        argument = self.args[edge.index]
        return argument if edge.item is None else argument[edge.item]  # type: ignore[no-any-return]

    def with_operand(self, edge: OperandEdge, value: Tensor) -> Call:
        """Replace an operand."""
        args = list(self.args)
        if edge.item is None:
            args[edge.index] = value
        else:
            args[edge.index] = list(args[edge.index])
            args[edge.index][edge.item] = value
        return replace(self, args=tuple(args))


Hook = Callable[[Call], Tensor]
"""Runs a call, or something in its place, and gives the result."""


class _StageRun(fx.Interpreter):
    """Runs a stage and leaves some nodes to hooks; no parameter takes part in derivatives."""

    def __init__(self, graph_module: fx.GraphModule, hooks: Mapping[str, Hook]) -> None:
        super().__init__(graph_module)
        self._hooks = hooks

    def run_node(self, n: fx.Node) -> Any:
        if n.name in self._hooks:
            operation = getattr(self, n.op)  # call_function, or call_module for LayerNorms and softmaxes
            return self._hooks[n.name](Call(partial(operation, n.target), *self.fetch_args_kwargs_from_env(n)))
        result = super().run_node(n)
        return result.detach() if n.op == "get_attr" and isinstance(result, Tensor) else result


def run_stage_with(model: QuantizedModel, index: int, state: State, hooks: Mapping[str, Hook]) -> State:
    """Run a stage as ``model.run_stage`` does, with some nodes, by name, left to hooks, and parameters detached."""
    result = _StageRun(model.stages[index].graph_module, hooks).run(*state)
    return tuple(result) if isinstance(result, tuple | list) else (result,)


def cut_of_site(model: QuantizedModel, site: str) -> Cut:
    """Find the output of a site.

    Raises:
        RecipeError: there is no such site.
    """
    known = model.traced.sites_by_name
    if site not in known:
        raise RecipeError(f"the model has no site {site!r}.{did_you_mean(site, known)}")
    for index, stage in enumerate(model.stages):
        for node, name in stage.site_nodes.items():
            if name == site:
                return Cut(site, index, node)
    raise AssertionError(site)  # every site is in a stage


def cuts_of_stages(model: QuantizedModel, image: Tensor, stages: Sequence[int]) -> dict[int, list[Cut | None]]:
    """Find, for each of these stages, a cut for each entry of its state that depends on the image; None for others.

    Args:
        model: with whatever its slots hold.
        image: one image, shape (1, ...); it is run through the stages.
        stages: indices.
    """
    cuts: dict[int, list[Cut | None]] = {}
    with torch.inference_mode(False), torch.enable_grad():
        state: State = (image.clone().requires_grad_(),)
        for index in range(max(stages, default=-1) + 1):
            state = run_stage_with(model, index, state, {})
            cuts[index] = [
                Cut(f"entry {leaf} after stage {index}", index, leaf=leaf)
                if isinstance(value, Tensor) and value.requires_grad
                else None
                for leaf, value in enumerate(state)
            ]
    return {index: cuts[index] for index in stages}
