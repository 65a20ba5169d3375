"""What is known of each space that can be rotated, and why others cannot be."""

from __future__ import annotations

import torch

from autoq.calibration.transforms.rotation.find import find_spaces
from tests.calibration.transforms.rotation.models import ALL, HEADS, STREAM, WIDTH, Encoder, traced
from tests.graph.small import Weighted
from tests.graph.small import traced as traced_small


def test_what_a_space_consists_of() -> None:
    found = find_spaces(traced(Encoder())).rotatable
    stream, products, values = (found[name] for name in ALL)
    assert (stream.kind, stream.width, products.kind, products.width) == ("stream", WIDTH, "heads", WIDTH // HEADS)
    assert [len(layer.norms) for layer in stream.readers] == [1, 1]
    assert (len(stream.writers), len(stream.constants), len(stream.scales)) == (2, 2, 1)
    channels = torch.arange(3 * WIDTH).view(3, HEADS, -1)
    assert torch.equal(products.writers[0].numbers, channels[0])
    assert torch.equal(products.writers[1].numbers, channels[1])
    assert torch.equal(values.writers[0].numbers, channels[2])
    assert torch.equal(values.readers[0].numbers, channels[0])
    assert (products.operands, values.operands) == ((("lhs", -1), ("rhs", -2)), (("rhs", -1),))


def test_reasons() -> None:
    refused = find_spaces(traced(Encoder(joined=torch.relu))).refused
    assert refused["qkv"] == "'chunk' takes its channels as they are"
    assert refused["av"] == "its operands do not come from layers, and its result goes to no layer, untouched"
    assert refused["head"] == "'output' takes its channels as they are"
    assert STREAM not in refused


def test_a_model_without_spaces() -> None:
    class Single(Weighted):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.layer(x)

    found = find_spaces(traced_small(Single()))
    assert (found.rotatable, list(found.refused)) == ({}, ["layer"])
