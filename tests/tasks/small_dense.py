"""A small transformer with a dense head: per-patch linear predictions, shuffled into a map."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from autoq.models.loaded import LoadedModel, weights_sha256
from autoq.runs.session import Session

SIDE, PATCH, WIDTH, BLOCKS = 16, 4, 16, 2


class _Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH)
        self.proj = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        images, tokens, _ = x.shape
        q, k, v = self.qkv(x).reshape(images, tokens, 3, 2, WIDTH // 2).permute(2, 0, 3, 1, 4)  # (N, heads, T, C)
        weights = (q @ k.transpose(-2, -1) * (WIDTH // 2) ** -0.5).softmax(-1)
        return self.proj((weights @ v).transpose(1, 2).reshape(images, tokens, WIDTH))


class _Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.attn, self.norm2 = nn.LayerNorm(WIDTH), _Attention(), nn.LayerNorm(WIDTH)
        self.fc1, self.act, self.fc2 = nn.Linear(WIDTH, 2 * WIDTH), nn.GELU(), nn.Linear(2 * WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.fc2(self.act(self.fc1(self.norm2(x))))


class DenseTransformer(nn.Module):
    """Returns pooled features, which are not compared, and a map of shape (N, 1, SIDE, SIDE)."""

    def __init__(self) -> None:
        super().__init__()
        self.patch_embed = nn.Conv2d(3, WIDTH, PATCH, PATCH)
        self.blocks = nn.ModuleList(_Block() for _ in range(BLOCKS))
        self.norm = nn.LayerNorm(WIDTH)
        self.head = nn.Linear(WIDTH, PATCH * PATCH)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        tokens = self.patch_embed(x).flatten(2).transpose(1, 2)  # (N, tokens, WIDTH)
        for block in self.blocks:
            tokens = block(tokens)
        tokens = self.norm(tokens)
        patches = self.head(tokens).transpose(1, 2).unflatten(2, (SIDE // PATCH, SIDE // PATCH))
        return {"features": tokens.mean(1), "depth": nn.functional.pixel_shuffle(patches, PATCH)}


def dense_model(seed: int = 0) -> DenseTransformer:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return DenseTransformer().eval()


def dense_session() -> Session:
    module = dense_model()
    loaded = LoadedModel("memory:DenseTransformer", module, None, (3, SIDE, SIDE), None, None, weights_sha256(module))
    return Session.of(loaded)


def pictures(count: int, seed: int = 0) -> Tensor:
    """Smooth random images, of shape (count, 3, SIDE, SIDE)."""
    coarse = torch.randn(count, 3, 4, 4, generator=torch.Generator().manual_seed(seed))
    return nn.functional.interpolate(coarse, size=(SIDE, SIDE), mode="bilinear")
