"""Graphs as other tools trace them."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from autoq.exporters.graphs import CodedWeight, TracedByPosition, quantized_weights
from tests.api.models import IMAGES
from tests.exporters.sources import source_of


class Zero(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * 0


@torch.no_grad()
def test_a_coded_weight_is_the_weight_without_its_values() -> None:
    for weight in quantized_weights(source_of("mixed").module).values():
        coded = CodedWeight(weight)
        assert torch.equal(coded(), weight())
        assert {name for name, value in coded.named_buffers() if value.shape == weight.value.shape} == {"codes"}


@torch.no_grad()
def test_operands_are_replaced_in_a_copy() -> None:
    module = source_of("w8a8").module
    expected = module(IMAGES)["logits"]
    assert torch.equal(TracedByPosition(module, {})(IMAGES)["logits"], expected)
    changed = TracedByPosition(module, {("head", "input"): Zero()})
    assert torch.allclose(changed(IMAGES)["logits"], module.model.head.bias.expand(len(IMAGES), -1))  # type: ignore[union-attr, operator]
    assert torch.equal(module(IMAGES)["logits"], expected)
