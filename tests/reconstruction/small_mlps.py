"""Small models with MLPs that are found by structure alone."""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor, nn

from autoq.graph.trace import TracedModel, trace


class Branch(nn.Module):
    """x + fc2(act(fc1(norm(x)))), its parts called by other names."""

    def __init__(self, act: nn.Module | None = None) -> None:
        super().__init__()
        self.scaler = nn.LayerNorm(8)
        self.widen = nn.Linear(8, 20)
        self.act = nn.GELU() if act is None else act
        self.narrow = nn.Linear(20, 8)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.narrow(self.act(self.widen(self.scaler(x))))


class Small(nn.Module):
    """Takes images of shape (N, 1, 6, 8), as six tokens of eight channels."""

    def __init__(self, branches: int = 2, act: nn.Module | None = None) -> None:
        super().__init__()
        self.embed = nn.Linear(8, 8)
        self.layers = nn.ModuleList([Branch(act) for _ in range(branches)])
        self.classify = nn.Linear(8, 3)

    def forward(self, images: Tensor) -> Tensor:
        x = self.embed(images.squeeze(1))
        for layer in self.layers:
            x = layer(x)
        return self.classify(x.mean(1))


def small(branches: int = 2, act: nn.Module | None = None) -> Small:
    torch.manual_seed(0)
    module = Small(branches, act).eval()
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if "widen.weight" in name:  # so that negative values matter
                parameter.mul_(2)
    return module


def images(count: int = 12) -> Tensor:
    return torch.randn(count, 1, 6, 8, generator=torch.Generator().manual_seed(1))


@cache
def traced_small(branches: int = 2, act: nn.Module | None = None) -> TracedModel:
    return trace(small(branches, act), images(2))
