"""Which additions are sites, and how their operands lie."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from autoq.graph.insert import QuantizedModel
from autoq.graph.trace import trace
from tests.graph.small import Weighted, tokens, traced
from tests.graph.zoo import example


class Summing(nn.Module):
    """Applies a function of the input, three layers and a table of positions, and a last layer."""

    def __init__(self, combine: Callable[[Summing, Tensor], Tensor]) -> None:
        super().__init__()
        self.first, self.second, self.third, self.last = (nn.Linear(8, 8) for _ in range(4))
        self.norm = nn.LayerNorm(8)
        self.positions = nn.Parameter(torch.randn(1, 6, 8))
        self.bias = nn.Parameter(torch.randn(1, 1, 8))
        self.mask = nn.Parameter(torch.randn(6, 6))
        self._combine = combine

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self._combine(self, x))  # type: ignore[no-any-return]


def _rotary(m: Summing, x: Tensor) -> Tensor:
    y = m.first(x)
    return y * m.positions + y.flip(-1) * m.positions.sin()  # type: ignore[no-any-return]


def _attention(m: Summing, x: Tensor) -> Tensor:
    scores = m.first(x) @ m.second(x).transpose(1, 2)
    return ((scores + m.mask) * 2 + m.mask.T).softmax(-1) @ x  # type: ignore[no-any-return]


SITES: dict[str, Callable[[Summing, Tensor], Tensor]] = {
    "a branch": lambda m, x: x + m.first(x),
    "a branch, first": lambda m, x: m.first(x) + x,
    "a branch, in place": lambda m, x: m.first(x).add_(x),
    "two layers": lambda m, x: m.first(x) + m.second(x),
    "twice the branch": lambda m, x: torch.add(x, m.first(x), alpha=2),
    "positions": lambda m, x: m.first(x) + m.positions,
    "positions of the input": lambda m, x: x + m.positions,
}
OTHERS: dict[str, Callable[[Summing, Tensor], Tensor]] = {
    "a bias": lambda m, x: m.first(x) + m.bias,
    "a number": lambda m, x: m.first(x) + 1.0,
    "itself": lambda m, x: (y := m.first(x)) + y,
    "of one layer": lambda m, x: (y := m.first(x)) + y.mean(1, keepdim=True),
    "a rotary embedding": _rotary,
    "a mask and a bias of scores": _attention,
    "parameters": lambda m, x: x * (m.positions + m.bias),
}


@pytest.mark.parametrize("case", SITES)
def test_residual_sums_and_embeddings_of_positions_are_sites(case: str) -> None:
    found = traced(Summing(SITES[case]))
    (site,) = (site for site in found.sites if site.op == "add")
    assert (site.name, site.macs, [operand.name for operand in site.operands]) == ("add", 0, ["lhs", "rhs"])
    assert all(operand.layout.channel_axis == -1 for operand in site.operands)
    is_parameter = [operand.is_weight for operand in site.operands]
    assert is_parameter == [False, case.startswith("positions")]
    assert {operand.shape for operand in site.operands} == {(1, 6, 8)}
    if is_parameter[1]:
        assert torch.equal(found.weight("add", "rhs"), found.graph_module.get_parameter("positions"))


@pytest.mark.parametrize("case", OTHERS)
def test_other_additions_are_none(case: str) -> None:
    assert [site.op for site in traced(Summing(OTHERS[case])).sites if site.op == "add"] == []


def test_what_only_the_output_reads_is_none() -> None:
    class Averaged(Weighted):
        def forward(self, x: Tensor) -> Tensor:
            return (self.layer(x) + x) / 2  # type: ignore[no-any-return]

    assert [site.name for site in traced(Averaged()).sites] == ["layer", "output"]


def test_channels_of_feature_maps_are_those_of_the_nearest_layer() -> None:
    class Maps(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.convolution, self.pointwise = nn.Conv2d(3, 8, 1), nn.Linear(8, 8)
            self.last = nn.Conv2d(8, 2, 1)

        def forward(self, x: Tensor) -> Tensor:
            x = self.convolution(x)
            x = x + x.relu().mean((2, 3), keepdim=True) * self.convolution(x[:, :3])
            y = self.pointwise(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
            return self.last(x + y)  # type: ignore[no-any-return]

    sums = [site for site in trace(Maps().eval(), torch.zeros(2, 3, 5, 6)).sites if site.op == "add"]
    assert [[each.layout.channel_axis for each in site.operands] for site in sums] == [[-3, -3], [-3, -3]]


def test_a_pvt_s_first_residual_stream_comes_from_a_layer_norm() -> None:
    sites = example("pvt_v2").traced.sites
    (first, *_) = (site for site in sites if site.op == "add")
    assert [operand.producer for operand in first.operands] == ["layer_norm", "other"]


def test_quantizers_stand_on_both_operands_alone() -> None:
    """The branch reads what it did: the quantizer is on the edge of the sum."""

    class Halve(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x / 2

    module, x = Summing(lambda m, x: x + m.first(x)).eval(), tokens()
    model = QuantizedModel(traced(module))
    model.insert_({("add", "lhs"): Halve()})
    with torch.no_grad():
        torch.testing.assert_close(model(x), module.last(x / 2 + module.first(x)))
        model.insert_({("add", "rhs"): Halve()})
        torch.testing.assert_close(model(x), module.last(x / 2 + module.first(x) / 2))
        model.remove_()
        assert torch.equal(model(x), module(x))
