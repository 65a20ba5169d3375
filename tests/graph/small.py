"""What the tests on small modules share."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from autoq.graph.trace import TracedModel, trace


def tokens(count: int = 2) -> Tensor:
    """Six tokens of eight channels an image."""
    return torch.randn(count, 6, 8, generator=torch.Generator().manual_seed(0))


def traced(module: nn.Module, batch: Tensor | None = None) -> TracedModel:
    """Trace a module that takes tokens."""
    return trace(module.eval(), tokens() if batch is None else batch)


class Weighted(nn.Module):
    """Has a layer."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 8)


class Structured(Weighted):
    """Returns what a function makes of the layer's output."""

    def __init__(self, arrange: Callable[[Tensor], object]) -> None:
        super().__init__()
        self.arrange = arrange

    def forward(self, x: Tensor) -> object:
        return self.arrange(self.layer(x))
