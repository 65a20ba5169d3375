"""Probes run a model once, on one image, and move numbers as the model moves values."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx

from autoq.graph.nodes import is_move
from autoq.graph.probing import BaseProbe, argument_places, numbered_like, reads_shape
from tests.graph.small import Weighted, traced


class Moving(Weighted):
    def forward(self, x: Tensor) -> Tensor:
        y = x.unflatten(2, (2, 4)).transpose(1, 2)
        return self.layer(torch.cat([y.expand_as(y), y], 3)) + x.new_zeros(8)


class Recording(BaseProbe):
    """Moves numbers along with the input."""

    def __init__(self, graph_module: fx.GraphModule) -> None:
        super().__init__(graph_module)
        self.moved: dict[fx.Node, Tensor] = {}

    def run_node(self, n: fx.Node) -> Any:
        numbers = self.moved.get(n.args[0]) if n.args else None  # type: ignore[arg-type]
        if numbers is not None and is_move(n):
            self.moved[n] = self.move(n, numbers)
        result = super().run_node(n)
        if n.op == "placeholder":
            assert result.shape == (1, 6, 8)
            self.moved[n] = numbered_like(result, torch.arange(48).view(1, 6, 8))
        return result


def test_numbers_go_where_values_go() -> None:
    probe = Recording(traced(Moving()).graph_module)
    probe.run_on_zeros()
    expected = torch.arange(48).view(1, 6, 2, 4).transpose(1, 2)
    assert any(torch.equal(numbers, expected) for numbers in probe.moved.values())


def test_readers_of_shapes() -> None:
    nodes = {node.name: node for node in traced(Moving()).graph_module.graph.nodes}
    [moved] = [node for node in nodes.values() if node.name.startswith("transpose")]
    users = {user.name.split("_")[0]: user for user in moved.users}
    assert list(argument_places(users["cat"], moved)) == [(0, 1)]
    assert list(argument_places(users["expand"], moved)) == [(0, None), (1, None)]
    assert [reads_shape(users["expand"], index) for index in (0, 1)] == [False, True]
    assert not reads_shape(users["cat"], 0)


def test_numbers_have_the_strides_of_values() -> None:
    x = torch.zeros(3, 4).T
    numbers = numbered_like(x, torch.arange(3))
    assert (numbers.stride(), numbers.dtype) == (x.stride(), torch.int64)
    assert numbers.tolist() == [[0, 1, 2]] * 4
