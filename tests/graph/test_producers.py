"""What computed a tensor, seen through what only moves or scales it."""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812 - as everybody calls it
from torch import Tensor, nn

from tests.graph.small import Weighted, traced
from tests.graph.zoo import example


def test_producers_are_seen_through_scaling_by_parameters_and_numbers() -> None:
    class Scaled(Weighted):
        def __init__(self) -> None:
            super().__init__()
            self.gamma = nn.Parameter(torch.rand(8))
            self.more = nn.ModuleList(nn.Linear(8, 8) for _ in range(4))

        def forward(self, x: Tensor) -> Tensor:
            parts = [F.gelu(x) * self.gamma, self.gamma * F.gelu(x), F.gelu(x) / 3, self.gamma / F.gelu(x)]
            return sum(layer(part) for layer, part in zip(self.more, parts, strict=True))

    sites = traced(Scaled()).sites
    assert [site.operand("input").producer for site in sites if site.macs] == ["gelu", "gelu", "gelu", "other"]


def test_the_softmax_is_found_through_its_mixing_of_heads() -> None:
    """CaiT mixes heads with a linear layer between softmax and product: no softmax feeds the product directly."""
    by_name = example("cait").traced.sites_by_name
    assert by_name["blocks.0.attn.proj_w"].operand("input").producer == "softmax"
    assert by_name["blocks.0.attn.av"].operand("lhs").producer == "other"
