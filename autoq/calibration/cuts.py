"""Tensors in the middle of a model: the outputs of sites and stages, and how to get at them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from autoq.errors import RecipeError
from autoq.files import did_you_mean
from autoq.graph.insert import QuantizedModel
from autoq.graph.stages import State


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


class _StageRun(fx.Interpreter):
    """Runs a stage and passes the results of some nodes through functions; no parameter takes part in derivatives."""

    def __init__(self, graph_module: fx.GraphModule, at: Mapping[str, Callable[[Tensor], Tensor]]) -> None:
        super().__init__(graph_module)
        self._at = at

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        if n.op == "get_attr":
            return result.detach() if isinstance(result, Tensor) else result
        return self._at[n.name](result) if n.name in self._at else result


def run_stage_at(
    model: QuantizedModel, index: int, state: State, at: Mapping[str, Callable[[Tensor], Tensor]]
) -> State:
    """``model.run_stage`` with the results of some nodes passed through functions, and parameters detached."""
    result = _StageRun(model.stages[index].graph_module, at).run(*state)
    return tuple(result) if isinstance(result, tuple | list) else (result,)


def cut_of_site(model: QuantizedModel, site: str) -> Cut:
    """The output of a site.

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
    """By stage, a cut for each entry of its state that follows the image."""
    cuts: dict[int, list[Cut | None]] = {}
    with torch.inference_mode(False), torch.enable_grad():
        state: State = (image.clone().requires_grad_(),)
        for index in range(max(stages, default=-1) + 1):
            state = run_stage_at(model, index, state, {})
            cuts[index] = [
                Cut(f"entry {leaf} after stage {index}", index, leaf=leaf)
                if isinstance(value, Tensor) and value.requires_grad
                else None
                for leaf, value in enumerate(state)
            ]
    return {index: cuts[index] for index in stages}


def logits_of(state: State) -> Tensor:
    """The first tensor that the model returns."""
    return next(value for value in state if isinstance(value, Tensor))
