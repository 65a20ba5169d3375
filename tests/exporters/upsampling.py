"""A small network with transposed convolutions, to quantize and export."""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor, nn

import autoq
from autoq.models import weights_sha256
from autoq.recipe import ModelReference, OperandConfig, Recipe

IMAGES = torch.randn(8, 3, 6, 6, generator=torch.Generator().manual_seed(0))
AXES = {"stem": 0, "up": 1, "overlapping": 1}
"""Axis of the output channels of each weight."""


class Upsampling(nn.Module):
    """Convolves, enlarges twice, with overlaps the second time, and averages."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.up = nn.ConvTranspose2d(8, 6, 2, stride=2)
        self.overlapping = nn.ConvTranspose2d(6, 5, 3, stride=2, padding=1, output_padding=1)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        x = self.overlapping(torch.relu(self.up(torch.relu(self.stem(x)))))
        return {"logits": x.mean((2, 3))}


@cache
def upsampling() -> nn.Module:
    """The network, with the same weights each time."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Upsampling().eval()


@cache
def quantized(bits: int) -> autoq.QuantizedModule:
    """The network with uniform weights, a scale an output channel, and activations of 8 bits."""
    weight = OperandConfig(scheme="uniform", bits=bits, granularity="channel")
    both = {"input": OperandConfig(scheme="uniform", bits=8), "weight": weight}
    sites = dict.fromkeys(("stem", "up", "overlapping"), both)
    sha256 = weights_sha256(upsampling())
    reference = ModelReference(name="memory:Upsampling", weights_sha256=sha256, input_size=(3, 6, 6))
    return autoq.quantize(upsampling(), Recipe(model=reference, sites=sites), IMAGES, calib_images=8)
