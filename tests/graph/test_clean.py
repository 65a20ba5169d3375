"""Nodes that nobody reads and values that are the same for every image leave the graph."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - as everybody calls it
from torch import Tensor, nn

from autoq.graph.insert import QuantizedModel
from tests.graph.small import Weighted, tokens, traced


class Unread(Weighted):
    """Computes layers, products and norms that do not reach its output."""

    def __init__(self) -> None:
        super().__init__()
        self.levels = nn.ModuleList(nn.Linear(8, 8) for _ in range(3))
        self.norm = nn.LayerNorm(8)
        self.register_buffer("table", torch.eye(8))

    def forward(self, x: Tensor) -> Tensor:
        pyramid = [self.norm(level(x)) for level in self.levels]
        (pyramid[0] @ pyramid[0].transpose(1, 2)).softmax(-1)
        self.layer(x)
        self.table @ self.table
        return self.layer(pyramid[1])


def test_what_nobody_reads_is_no_site_and_costs_nothing() -> None:
    module = Unread()
    found = traced(module)
    assert [site.name for site in found.sites] == ["levels.1", "norm", "layer", "output"]
    assert found.uncounted == ()
    assert found.macs == 2 * 6 * 8 * 8
    assert list(found.edges) == [(site.name, operand.name) for site, operand in found.operands()]
    assert torch.equal(QuantizedModel(found)(tokens(3)), module(tokens(3)))


def test_products_of_constants_are_computed_once_and_reported() -> None:
    class Table(Weighted):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("positions", torch.randn(6, 8))

        def forward(self, x: Tensor) -> Tensor:
            return x + self.layer(self.positions)

    module = Table()
    found = traced(module)
    assert list(found.sites_by_name) == ["output"]
    assert [(op.name, op.reason) for op in found.uncounted] == [("layer", "computed once, not for every image")]
    calls = [str(node.target) for node in found.graph_module.graph.nodes if node.op == "call_function"]
    assert calls == ["aten.add.Tensor", "aten.alias.default"]
    assert torch.equal(found.graph_module(tokens(3)), module(tokens(3)))


def test_random_numbers_are_drawn_in_every_call() -> None:
    class Noisy(Weighted):
        def forward(self, x: Tensor) -> Tensor:
            return self.layer(x) + torch.rand(8)

    found = traced(Noisy())
    assert not torch.equal(found.graph_module(tokens()), found.graph_module(tokens()))


def test_dropout_leaves_no_node() -> None:
    found = traced(nn.Sequential(nn.Linear(8, 8), nn.Dropout(0.5), nn.Dropout(0.5, inplace=True)))
    assert [str(node.target) for node in found.graph_module.graph.nodes if node.op == "call_function"] == [
        "aten.linear.default",
        "aten.alias.default",
    ]


@pytest.mark.parametrize("mask", [None, "bool", "float"])
def test_fused_attention_is_written_out(mask: str | None) -> None:
    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            lower = torch.ones(6, 6).tril()
            self.register_buffer("mask", lower.bool() if mask == "bool" else lower.log())

        def attend(self, x: Tensor, scale: float | None) -> Tensor:
            return F.scaled_dot_product_attention(x, x, x, None if mask is None else self.mask, scale=scale)

        def forward(self, x: Tensor) -> Tensor:
            x = x.unflatten(-1, (2, 4)).transpose(1, 2)
            return self.attend(self.attend(x, None), 0.3)

    module = Attention()
    found = traced(module)
    assert [site.name for site in found.sites] == ["qk", "softmax", "av", "qk@2", "softmax@2", "av@2", "output"]
    assert [site.macs for site in found.sites] == [*[2 * 6 * 6 * 4, 0, 2 * 6 * 6 * 4] * 2, 0]
    torch.testing.assert_close(found.graph_module(tokens(3)), module(tokens(3)))


def test_fused_attention_that_cannot_be_written_out_is_reported() -> None:
    class Causal(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return F.scaled_dot_product_attention(x, x, x, is_causal=True)

    found = traced(Causal())
    assert list(found.sites_by_name) == ["output"]
    [op] = found.uncounted
    assert (op.name, op.op) == ("scaled_dot_product_attention", "scaled_dot_product_attention")
    assert torch.equal(found.graph_module(tokens()), Causal()(tokens()))
