"""Live activations, against sets written down by hand and against a tensor-by-tensor simulation."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from autoq.graph.live import LiveRegion, LiveSets
from autoq.graph.trace import trace


class Attention(nn.Module):
    """One head over four tokens of six channels, a residual branch, and a class token that is read alone."""

    def __init__(self) -> None:
        super().__init__()
        self.token = nn.Parameter(torch.zeros(1, 1, 6))
        self.norm, self.qkv, self.proj, self.head = nn.LayerNorm(6), nn.Linear(6, 18), nn.Linear(6, 6), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], dim=1)
        q, k, v = self.qkv(self.norm(x)).chunk(3, dim=-1)
        attention = (q * 0.5 @ k.transpose(-2, -1)).softmax(-1)
        x = x + self.proj(attention @ v)
        return self.head(x[:, 0])  # type: ignore[no-any-return]


def live_sets(module: nn.Module, example: Tensor) -> LiveSets:
    return trace(module.eval(), example).live_sets


def test_attention_by_hand() -> None:
    """The image has 3 × 6 elements, as the token is a parameter; logits and branches are computed as they are read."""
    found = live_sets(Attention(), torch.rand(2, 3, 6))
    image = LiveRegion(18, (("norm", "input"), ("add", "lhs")))
    normed, attention, branch = (
        LiveRegion(24, (("qkv", "input"),)),
        LiveRegion(16, (("av", "lhs"),)),
        LiveRegion(24, (("proj", "input"),)),
    )
    q, k, v = (LiveRegion(24, ((site, name),)) for site, name in (("qk", "lhs"), ("qk", "rhs"), ("av", "rhs")))
    last, output = LiveRegion(6, (("head", "input"),)), LiveRegion(2, (("output", "input"),))
    expected = [
        {image, normed, q, k, v},
        {image, q, k, v, attention},
        {image, v, attention, branch},
        {image, branch, last},
        {last, output},
    ]
    shown = [{found.regions[number] for number in step} for step in found.steps]
    assert shown == expected


class Sequence(nn.Module):
    """Layers of different widths around two residual branches."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in ((5, 5), (5, 9), (9, 5), (5, 3)))

    def forward(self, x: Tensor) -> Tensor:
        first = x + self.layers[0](x).relu()
        second = first + self.layers[2](nn.functional.gelu(self.layers[1](first)))
        return self.layers[3](second)  # type: ignore[no-any-return]


def test_residual_branches_by_hand() -> None:
    """The image lives until the first sum, the first sum until the second."""
    found = live_sets(Sequence(), torch.rand(2, 5))
    sizes = [sorted(found.regions[number].elements for number in step) for step in found.steps]
    assert sizes == [[5, 5], [5, 5, 9], [3, 5]]
    readers = {region.readers for region in found.regions}
    assert (("layers.0", "input"), ("add", "lhs")) in readers
    assert (("layers.2", "input"),) in readers
