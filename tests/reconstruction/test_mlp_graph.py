"""MLPs are found in the traced graph, and their GELUs become ReLUs."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from autoq.graph.insert import QuantizedModel
from autoq.graph.trace import trace
from autoq.reconstruction.mlp_graph import find_mlps, with_relu
from tests.graph.small import traced
from tests.reconstruction.small_mlps import images, small, traced_small

# Finding


def test_finds_layers_around_a_gelu_by_structure_alone() -> None:
    (first, second) = find_mlps(traced_small())
    assert (first.name, first.norm) == ("layers.0", "layers.0.scaler")
    assert (second.fc1, second.fc2) == ("layers.1.widen", "layers.1.narrow")
    parts = ("scaler", "widen", "narrow")
    assert first.parameters == tuple(f"layers.0.{part}.{kind}" for part in parts for kind in ("weight", "bias"))


class Several(nn.Module):
    """Layers that can be put together in several ways."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.way = way
        self.norm = nn.LayerNorm(8)
        self.a, self.b, self.c = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 8, bias=False)
        self.point, self.wide = nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        gelu = functional.gelu
        if self.way == "moved":
            hidden = gelu(self.a(x).transpose(1, 2))
            return self.c(hidden.reshape(-1, 8, 6).transpose(1, 2))
        if self.way == "shared norm":
            normed = self.norm(x)
            return self.b(gelu(self.a(normed))) + self.c(normed)
        if self.way == "gated":
            return self.c(gelu(self.a(x)) * self.b(x))
        if self.way == "read twice":
            hidden = gelu(self.a(x))
            return self.b(hidden) + self.c(hidden)
        if self.way == "read by the output":
            hidden = gelu(self.a(x))
            return self.b(hidden) + hidden
        if self.way == "shared layer":
            return self.a(gelu(self.a(x)))
        if self.way == "no first layer":
            return self.a(gelu(x))
        maps = x.transpose(1, 2).reshape(-1, 8, 2, 3)
        return (self.point if self.way == "pointwise" else self.wide)(gelu(self.point(maps)))


@pytest.mark.parametrize(
    ("way", "expected"),
    [
        ("moved", [(None, "a", "c")]),
        ("shared norm", [(None, "a", "b")]),
        ("gated", []),
        ("read twice", []),
        ("read by the output", []),
        ("shared layer", []),
        ("no first layer", []),
        ("wide", []),
    ],
)
def test_tells_mlps_from_what_only_looks_like_one(way: str, expected: list[tuple[str | None, str, str]]) -> None:
    assert [(mlp.norm, mlp.fc1, mlp.fc2) for mlp in find_mlps(traced(Several(way)))] == expected


def test_finds_pointwise_convolutions() -> None:
    module = nn.Sequential(nn.Conv2d(2, 4, 1), nn.GELU(), nn.Conv2d(4, 3, 1))
    batch = torch.randn(2, 2, 3, 3)
    (mlp,) = find_mlps(trace(module.eval(), batch))
    assert (mlp.fc1, mlp.fc2, mlp.parameters) == ("0", "2", ("0.weight", "0.bias", "2.weight", "2.bias"))
    assert mlp.name == "2"  # they have no module in common


class Written(nn.Module):
    """GELU in a module of its own, which is not torch's."""

    def forward(self, x: Tensor) -> Tensor:
        return functional.gelu(x, approximate="tanh")


class Calling(nn.Module):
    """GELU as a call in the module of its layers, or in one of its own."""

    def __init__(self, act: nn.Module | None) -> None:
        super().__init__()
        self.a, self.b, self.act = nn.Linear(8, 12), nn.Linear(12, 8), act

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.a(x)
        return self.b(functional.gelu(hidden) if self.act is None else self.act(hidden))


@pytest.mark.parametrize(
    ("act", "expected"),
    [
        (nn.GELU(), "0.act"),
        (Written(), "0.act"),
        (nn.Sequential(nn.GELU(), nn.Dropout()), "0.act.0"),
        (None, ""),
    ],
)
def test_names_the_module_that_is_the_gelu(act: nn.Module | None, expected: str) -> None:
    (mlp,) = find_mlps(traced(nn.Sequential(Calling(act))))
    assert mlp.activation == expected
    (mlp,) = find_mlps(traced(Calling(act)))  # in the outermost module, whose path is empty
    assert mlp.activation == expected.removeprefix("0.")


# Swapping


def test_swap_computes_what_a_module_with_relu_does() -> None:
    before = traced_small()
    batch, expected = images(3), small(act=nn.ReLU())(images(3))
    original = before.graph_module(batch)
    after = with_relu(before, find_mlps(before))
    assert torch.equal(after.graph_module(batch), expected)
    assert torch.equal(QuantizedModel(after).run(batch)[0], expected)
    assert not torch.equal(original, expected)
    assert torch.equal(before.graph_module(batch), original)  # left as it was


def test_swap_leaves_sites_and_operands_as_they_are() -> None:
    before = traced_small()
    after = with_relu(before, find_mlps(before))
    assert list(after.edges) == list(before.edges)
    assert [(site.name, site.op, site.macs) for site in after.sites] == [
        (site.name, site.op, site.macs) for site in before.sites
    ]
    producers = {(site.name, operand.name): operand.producer for site, operand in after.operands()}
    for site, operand in before.operands():
        expected = "relu" if operand.producer == "gelu" else operand.producer
        assert producers[site.name, operand.name] == expected
    assert list(producers.values()).count("relu") == 2
    assert find_mlps(after) == ()


def test_swap_of_one_mlp_copies_its_parameters_and_shares_the_rest() -> None:
    before = traced_small()
    (first, second) = find_mlps(before)
    given_bias = torch.arange(8.0)
    after = with_relu(before, [first], {"layers.0.narrow.bias": given_bias, "layers.1.narrow.bias": given_bias})
    old, new = (dict(each.graph_module.named_parameters()) for each in (before, after))
    assert {name for name in new if new[name] is not old[name]} == set(first.parameters)
    assert torch.equal(new["layers.0.narrow.bias"], given_bias)
    assert torch.equal(new["layers.0.widen.bias"], old["layers.0.widen.bias"])
    assert [mlp.name for mlp in find_mlps(after)] == [second.name]
