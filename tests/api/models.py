"""Models as users have them, small enough to be searched in seconds."""

from __future__ import annotations

import torch
from torch import Tensor, nn

IMAGES = torch.randn(24, 3, 16, 16, generator=torch.Generator().manual_seed(0))
LABELS = torch.randint(0, 5, (24,), generator=torch.Generator().manual_seed(1))
SETTINGS = {"trials": 8, "calib_images": 12, "space": "bits_only", "baselines": "uniform"}


class HandWritten(nn.Module):
    """A transformer of one layer that returns a dictionary."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Conv2d(3, 16, 8, 8)
        self.norm1, self.norm2 = nn.LayerNorm(16), nn.LayerNorm(16)
        self.qkv, self.proj = nn.Linear(16, 48), nn.Linear(16, 16)
        self.fc1, self.fc2 = nn.Linear(16, 32), nn.Linear(32, 16)
        self.head = nn.Linear(16, 5)

    def features(self, x: Tensor) -> Tensor:
        """Tokens, of shape (N, 4, 16)."""
        tokens = self.embed(x).flatten(2).transpose(1, 2)
        q, k, v = (
            self.qkv(self.norm1(tokens)).reshape(x.shape[0], 4, 3, 2, 8).permute(2, 0, 3, 1, 4)
        )  # (N, heads, 4, 8)
        attention = (q @ k.transpose(-2, -1) / 8**0.5).softmax(-1)
        tokens = tokens + self.proj((attention @ v).transpose(1, 2).flatten(2))
        return tokens + self.fc2(nn.functional.gelu(self.fc1(self.norm2(tokens))))

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        tokens = self.features(x)
        return {"tokens": tokens, "logits": self.head(tokens.mean(1))}


class DepthLike(HandWritten):
    """The same with a map for an output."""

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        tokens = self.features(x)
        return {"depth": nn.functional.pixel_shuffle(tokens.transpose(1, 2).reshape(x.shape[0], 16, 2, 2), 4)[:, 0]}


def make(kind: type[nn.Module] = HandWritten) -> nn.Module:
    """A model with the same weights every time, in evaluation mode."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return kind().eval()
