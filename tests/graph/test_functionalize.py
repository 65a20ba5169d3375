"""Models that change tensors in place: traced, they change nothing but what they read themselves."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from autoq.errors import TraceError
from autoq.graph.functionalize import write_view
from autoq.graph.insert import QuantizedModel
from tests.graph.small import Weighted, tokens, traced

aten = torch.ops.aten


class InPlace(Weighted):
    """Runs a function of its input, its layer and its buffer."""

    def __init__(self, body: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.register_buffer("table", torch.arange(48.0).reshape(6, 8))
        self.body = body

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(self.body(x, self.table))


def coordinates(x: Tensor, _: Tensor) -> Tensor:
    rows, columns = torch.meshgrid(torch.arange(6.0), torch.arange(8.0), indexing="ij")
    grid = torch.stack([rows, columns], -1)
    grid[..., 0] /= 6
    grid[..., 1] += 0.5
    return x + grid.sum(-1)


def read_before_and_after(x: Tensor, _: Tensor) -> Tensor:
    grid = torch.arange(8.0)
    row = grid.reshape(2, 4)[1]
    before = x * row.sum()
    grid[5:] *= 2
    return before + grid + x * row.sum()


def mask(x: Tensor, _: Tensor) -> Tensor:
    inside = torch.ones_like(x, dtype=torch.bool)
    inside[..., 0] = False
    inside[:, 2:4, 1::2] = False
    inside |= x > 1
    return x * inside


def constant_mask(x: Tensor, _: Tensor) -> Tensor:
    lower = torch.zeros(6, 6)
    lower.diagonal().fill_(-1.0)
    lower[0].masked_fill_(lower[0] < 0, 3.0)
    return lower @ x


def buffer(x: Tensor, table: Tensor) -> Tensor:
    table[0] = 7.0
    table.t()[1] *= 2
    table += 1
    return x + table


def buffer_twice(x: Tensor, table: Tensor) -> Tensor:
    before = x + table
    view = table[1:3]
    view.zero_()
    return before + table


def chained_views(x: Tensor, _: Tensor) -> Tensor:
    y = x * 2
    windows = y.reshape(-1, 3, 2, 8).permute(0, 2, 1, 3)
    corner = windows[:, 1].unsqueeze(-1)[..., ::2, :]
    corner.squeeze(-1).add_(1).mul_(3)
    corner[:, 0] = 0
    return y + windows.permute(0, 2, 1, 3).reshape(-1, 6, 8)


def parts(x: Tensor, _: Tensor) -> Tensor:
    y = x + 0
    query, key, value = y.unflatten(1, (3, 2)).unbind(1)
    query *= 0.5
    key.sub_(1)
    first, second = y.split(4, dim=-1)
    second += first
    return torch.cat([query, key, value], 1) + y


def one_part(x: Tensor, _: Tensor) -> Tensor:
    first, second = (x + 0).chunk(2, dim=-1)
    first *= 2
    return torch.cat([first, second], -1)


def indexed(x: Tensor, table: Tensor) -> Tensor:
    y = x.clone()
    y[y > 1] = 0.25
    y[:, torch.tensor([0, 3])] = table[:2]
    y.index_put_((torch.tensor([0]), torch.tensor([1])), torch.ones(()), accumulate=True)
    y.scatter_(1, torch.zeros_like(y[:, :1], dtype=torch.long), 5.0)
    return y


def into_output(x: Tensor, _: Tensor) -> Tensor:
    result = torch.empty_like(x)
    torch.mul(x, 2, out=result)
    return result + x


def input_overwritten(x: Tensor, _: Tensor) -> Tensor:
    x[..., 0] = 1
    x.clamp_(max=1)
    return x


def input_view(x: Tensor, _: Tensor) -> Tensor:
    x.flatten(1)[:, ::2].neg_()
    return x


def copied_first(x: Tensor, _: Tensor) -> Tensor:
    """The transposed tensor cannot be viewed as flat: what is overwritten is a copy."""
    y = x + 0
    y.transpose(1, 2).flatten(1).zero_()
    return y


def shape_only(x: Tensor, _: Tensor) -> Tensor:
    y = x + 0
    view = y.view(-1)
    y.unsqueeze_(1)
    view *= 2
    return y.squeeze_(1)


def other_type(x: Tensor, _: Tensor) -> Tensor:
    y = x.half()
    y += x
    counts = torch.zeros(8, dtype=torch.long)
    counts += torch.ones(8, dtype=torch.int32)
    return y.float() + counts


def activation(x: Tensor, table: Tensor) -> Tensor:
    y = x + table
    return functional.dropout(functional.relu(y.flatten(1), inplace=True), 0.5, False, True).reshape(x.shape) - y


def several_results(x: Tensor, _: Tensor) -> Tensor:
    values, indices = x.topk(8, dim=-1)
    values += indices
    indices[..., 0] = 3
    return values * indices


BODIES = [
    *(coordinates, read_before_and_after, mask, constant_mask, buffer, buffer_twice, chained_views, parts, one_part),
    *(indexed, into_output, input_overwritten, input_view, copied_first, shape_only, other_type, activation),
    several_results,
]


@pytest.mark.parametrize("body", BODIES)
def test_what_is_changed_in_place_is_read_as_in_eager_mode(body: Callable[[Tensor, Tensor], Tensor]) -> None:
    module = InPlace(body)
    state = {name: value.clone() for name, value in module.state_dict().items()}
    found = traced(module, tokens())
    batch = tokens(3) * 2
    given = batch.clone()
    models: list[Callable[[Tensor], Tensor]] = [found.graph_module, QuantizedModel(found)]
    with torch.no_grad():
        actual = [model(given) for model in models for _ in range(2)]
        assert torch.equal(given, batch)
        for name, value in module.state_dict().items():
            assert torch.equal(value, state[name])
        expected = module(batch)
    for output in actual:
        assert torch.equal(output, expected)
    for node in found.graph_module.graph.nodes:
        if isinstance(node.target, torch._ops.OpOverload):
            assert not node.target._schema.is_mutable


def test_a_buffer_starts_each_call_as_it_was_traced() -> None:
    class Counting(Weighted):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("calls", torch.zeros(()))

        def forward(self, x: Tensor) -> Tensor:
            self.calls += 1
            return self.layer(x) + self.calls

    module = Counting()
    found = traced(module)
    outputs = [found.graph_module(tokens()) for _ in range(3)]
    assert module.calls == 0
    assert torch.equal(outputs[0], module.layer(tokens()) + 1)
    assert torch.equal(outputs[0], outputs[2])


def test_gradients_pass_through_written_views() -> None:
    module = InPlace(chained_views)
    found = traced(module)
    gradients = []
    for model in (module, found.graph_module):
        batch = tokens().requires_grad_()
        model(batch).square().sum().backward()
        gradients.append(batch.grad)
    assert torch.equal(*gradients)


def test_an_activation_in_place_stays_what_produced_the_operand() -> None:
    module = nn.Sequential(nn.Linear(8, 8), nn.Flatten(1, 2), nn.ReLU(inplace=True), nn.Linear(48, 2))
    assert traced(module).sites_by_name["3"].operand("input").producer == "relu"


def test_a_part_that_is_overwritten_leaves_the_others_as_they_are() -> None:
    found = traced(InPlace(one_part))
    assert all(node.target is not write_view for node in found.graph_module.graph.nodes)


def test_an_operator_that_only_works_in_place_is_refused_by_name() -> None:
    class Foreach(Weighted):
        def forward(self, x: Tensor) -> Tensor:
            y = x + 0
            torch._foreach_add_([y, x], 1.0)
            return self.layer(y)

    with pytest.raises(TraceError, match="_foreach_add_ overwrites several tensors; write it without changing tensors"):
        traced(Foreach())


def test_views_are_written_into_a_copy() -> None:
    base = torch.zeros(2, 3, 4)
    views = [(aten.unbind.int, (1,), {}, 1), (aten.slice.Tensor, (1, 2, 4), {}, None)]
    result = write_view(base, torch.ones(2, 2), views)
    assert base.sum() == 0
    assert result.sum() == result[:, 1, 2:].sum() == 4


def test_in_place_activations_do_not_reach_back_over_a_stage() -> None:
    class InPlace(Weighted):
        def forward(self, x: Tensor) -> Tensor:
            y = self.layer(x)
            return self.layer(functional.relu(y, inplace=True)) + y

    module = InPlace()
    model = QuantizedModel(traced(module))
    assert torch.equal(model(tokens()), module(tokens()))
