"""Tensors in the middle of a model can be found, read and replaced."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from autoq.errors import RecipeError
from autoq.graph.cuts import Call, Cut, cut_of_site, cuts_of_stages, run_stage_with
from autoq.graph.insert import QuantizedModel
from tests.graph.small import tokens, traced


class Mixing(nn.Module):
    """A layer, a norm, and an einsum with a parameter; it hands its batch size on."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.norm = nn.Linear(8, 8), nn.LayerNorm(8)
        self.mix = nn.Parameter(torch.randn(8, 5))

    def forward(self, x: Tensor) -> Tensor:
        count = x.shape[0]
        y = self.norm(self.layer(x).relu())
        return torch.einsum("bnc,cd->bnd", y, self.mix).reshape(count, -1)


@pytest.fixture(scope="module")
def model() -> QuantizedModel:
    return QuantizedModel(traced(Mixing()))


def run_with(model: QuantizedModel, site: str, hook: object) -> Tensor:
    """Run the model with one site left to a hook."""
    cut = cut_of_site(model, site)
    assert cut.node is not None
    state: tuple[object, ...] = (tokens(3),)
    for index in range(len(model.stages)):
        state = run_stage_with(model, index, state, {cut.node: hook} if index == cut.stage else {})  # type: ignore[dict-item]
    assert isinstance(state[0], Tensor)
    return state[0]


@pytest.mark.parametrize("site", ["layer", "norm", "einsum"])
def test_a_site_left_to_a_hook_that_runs_it_changes_nothing(model: QuantizedModel, site: str) -> None:
    calls: list[Call] = []

    def hook(call: Call) -> Tensor:
        calls.append(call)
        return call.run()

    assert torch.equal(run_with(model, site, hook), model.run(tokens(3))[0])
    [call] = calls
    for operand in model.traced.sites_by_name[site].operands:
        value = call.operand(model.traced.edges[site, operand.name])
        assert value.shape[-len(operand.shape) + 1 :] == operand.shape[1:]


@pytest.mark.parametrize(("site", "operand"), [("layer", "input"), ("layer", "weight"), ("einsum", "lhs")])
def test_an_operand_can_be_replaced(model: QuantizedModel, site: str, operand: str) -> None:
    class Double(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x * 2

    edge = model.traced.edges[site, operand]
    actual = run_with(model, site, lambda call: call.with_operand(edge, call.operand(edge) * 2).run())
    model.insert_({(site, operand): Double()})
    expected = model.run(tokens(3))[0]
    model.remove_()
    assert torch.equal(actual, expected)
    assert not torch.equal(actual, model.run(tokens(3))[0])


def test_no_parameter_takes_part_in_derivatives(model: QuantizedModel) -> None:
    cut = cut_of_site(model, "layer")
    state = run_stage_with(model, cut.stage, (tokens().requires_grad_(),), {})
    leaf = next(value for value in state if isinstance(value, Tensor))
    leaf.square().sum().backward()
    assert all(parameter.grad is None for parameter in model.parameters())


def test_cuts_of_stages_follow_the_image(model: QuantizedModel) -> None:
    last = len(model.stages) - 1
    cuts = cuts_of_stages(model, tokens(1), [0, last])
    assert list(cuts) == [0, last]
    state = model.run_stage(0, (tokens(1),))
    assert [cut is not None for cut in cuts[0]] == [isinstance(value, Tensor) for value in state]
    assert None in cuts[0]  # the batch size
    assert cuts[last] == [Cut(f"entry 0 after stage {last}", last, leaf=0)]


def test_cuts_of_sites_are_in_their_stage(model: QuantizedModel) -> None:
    for index, stage in enumerate(model.stages):
        for node, site in stage.site_nodes.items():
            assert cut_of_site(model, site) == Cut(site, index, node)
    with pytest.raises(RecipeError, match=r"the model has no site 'layr'\. Did you mean 'layer'\?"):
        cut_of_site(model, "layr")
