"""An attention layer whose scores can be treated in many ways."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from autoq.graph.insert import OperandKey, QuantizedModel
from autoq.graph.trace import TracedModel
from tests.calibration.transforms.rotation.models import HEADS, WIDTH, split


def normalized(scores: Tensor) -> Tensor:
    """Softmax over the keys."""
    return scores.softmax(-1)


class Attention(nn.Module):
    """Two heads of six channels without residual.

    Args:
        weigh: from scores (N, heads, queries, keys) to attention.
        bias: whether the layers have one.
    """

    def __init__(self, weigh: Callable[[Tensor], Tensor] = normalized, *, bias: bool = True) -> None:
        super().__init__()
        self.weigh = weigh
        self.qkv, self.proj = nn.Linear(5, 3 * WIDTH, bias=bias), nn.Linear(WIDTH, 3)
        self.offset = nn.Parameter(torch.zeros(HEADS, 8, 8))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = map(split, self.qkv(x).chunk(3, -1))
        y = self.weigh(q @ k.mT + self.offset) @ v
        return self.proj(y.transpose(1, 2).flatten(2))


def recorded(model: TracedModel, key: OperandKey, x: Tensor) -> Tensor:
    """Return what an operand is in full precision."""
    seen: list[Tensor] = []

    class Keep(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            seen.append(x)
            return x

    quantized = QuantizedModel(model)
    quantized.insert_({key: Keep()})
    with torch.no_grad():
        quantized(x)
    return seen[0]
