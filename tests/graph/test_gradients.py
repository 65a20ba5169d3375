"""Gradients at the operands and outputs of one stage's sites, in closed form."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from autoq.graph.gradients import Gradients, Point, StageGradients
from autoq.graph.insert import QuantizedModel
from autoq.graph.stages import State
from autoq.graph.trace import trace
from tests.graph.probes import assert_gradients


class TwoLayers(nn.Module):
    """What goes into the second layer goes past it, too."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.first, self.second = nn.Linear(4, 5), nn.Linear(5, 5)
        for layer in (self.first, self.second):
            layer.weight.data = torch.randn(layer.weight.shape, generator=generator)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.first(x)
        return self.second(hidden) + 3 * hidden  # type: ignore[no-any-return]


@torch.no_grad()
def test_two_layers() -> None:
    module, batch = TwoLayers().eval(), torch.randn(3, 4, generator=torch.Generator().manual_seed(1))
    model = QuantizedModel(trace(module, batch[:2]))
    points = [("first", "input"), ("first", None), ("second", "input")]
    states: list[State] = [(batch,)]
    for index in range(len(model.stages)):
        states.append(model.run_stage(index, states[-1]))
    upstream = torch.eye(3, 5)
    before: list[Gradients] = [[upstream], [2 * upstream], [None]]
    gradients: dict[Point, Gradients] = {}
    for index in reversed(range(len(model.stages))):
        here = [point for point in points if point[0] in model.stages[index].sites]
        found, before = StageGradients(model, index, states[index], here, has_earlier=True).differentiate(before)
        gradients |= found
    through = upstream @ module.second.weight
    output = through + 3 * upstream
    expected = {
        ("first", "input"): output @ module.first.weight,
        ("first", None): output,
        ("second", "input"): through,
    }
    assert_gradients(gradients, expected)
    assert before[0][0] is not None
    torch.testing.assert_close(before[0][0], output @ module.first.weight)
    assert before[2] == [None]


@torch.no_grad()
def test_where_nothing_is_wanted_nothing_is_differentiated() -> None:
    module, batch = TwoLayers().eval(), torch.ones(2, 4)
    model = QuantizedModel(trace(module, batch))
    stage = StageGradients(model, 0, (batch,), [], has_earlier=False)
    assert stage.differentiate([[torch.ones(2, 5)] * len(model.run_stage(0, (batch,)))]) == ({}, [[None]])
