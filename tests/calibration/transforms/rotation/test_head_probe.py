"""Which channels of heads can be rotated: no other reader, no change but moves and what keeps scalar products."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - as everybody calls it
from torch import Tensor, nn

from tests.calibration.transforms.rotation.models import (
    ALL,
    AV,
    HEADS,
    QK,
    STREAM,
    WIDTH,
    Encoder,
    assert_rotatable,
    traced,
)

Heads = tuple[Tensor, Tensor, Tensor]


def scaled(q: Tensor, k: Tensor, v: Tensor) -> Heads:
    return 2 * q / 3, k * 0.5, -1 * v


def rounded(q: Tensor, k: Tensor, v: Tensor) -> Heads:
    return torch.div(q, 0.5, rounding_mode="floor"), k, v


def normalized(q: Tensor, k: Tensor, v: Tensor) -> Heads:
    """Cosine attention."""
    return F.normalize(q, dim=-1), F.normalize(k, dim=-1), v


def normalized_across_heads(q: Tensor, k: Tensor, v: Tensor) -> Heads:
    return F.normalize(q, dim=1), k, v


def temperatures(q: Tensor, k: Tensor, v: Tensor) -> Heads:
    return q * torch.linspace(1, 2, HEADS).to(q)[:, None, None], k, v


def factors(q: Tensor, k: Tensor, v: Tensor) -> Heads:
    return q * torch.linspace(1, 2, WIDTH // HEADS).to(q), k, v


def shared(q: Tensor, k: Tensor, v: Tensor) -> Heads:
    return q, k[:, :1], v


def shared_values(q: Tensor, k: Tensor, v: Tensor) -> Heads:
    return q, k, v[:, :1]


def values_with_keys(q: Tensor, k: Tensor, v: Tensor) -> Heads:
    return q, k, v + k


def turned(q: Tensor, k: Tensor, v: Tensor) -> Heads:
    return q.flip(-1), k.flip(-1), v.roll(1, -1)


CASES: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "scaled by numbers": ({"attended": scaled}, ALL),
    "rounded queries": ({"attended": rounded}, (STREAM, AV)),
    "cosine attention": ({"attended": normalized}, ALL),
    "norms across heads": ({"attended": normalized_across_heads}, (STREAM, AV)),
    "a temperature for each head": ({"attended": temperatures}, ALL),
    "channels in another order": ({"attended": turned}, ALL),
    "heads that share keys": ({"attended": shared}, ALL),
    "heads that share values": ({"attended": shared_values}, (STREAM, QK)),
    "a factor for each channel of queries": ({"attended": factors}, (STREAM, AV)),
    "values that are keys too": ({"attended": values_with_keys}, (STREAM,)),
    "nonlinear values": ({"joined": F.gelu}, (STREAM, QK)),
    "values scaled by a number": ({"joined": lambda x: x * 2}, ALL),
    "values in another order": ({"joined": lambda x: x.roll(1, -1)}, ALL),
    "half of the values": ({"joined": lambda x: torch.cat([x[..., :3], x[..., :9]], -1)}, (STREAM, QK)),
}


@pytest.mark.parametrize("name", CASES)
def test_heads(name: str) -> None:
    options, expected = CASES[name]
    assert_rotatable(traced(Encoder(**options)), expected)


class Transposed(nn.Module):
    """Products of batches of matrices, values on the left, and no attention at all."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v, self.proj = (
            nn.Linear(5, 4),
            nn.Linear(5, 4, bias=False),
            nn.Linear(5, 6),
            nn.Linear(6, 3),
        )

    def forward(self, x: Tensor) -> Tensor:
        scores = torch.baddbmm(torch.ones(1, 1, 1).to(x), self.q(x), self.k(x).mT)
        return self.proj(torch.bmm(self.v(x).mT, scores.mT).mT)


class Added(Transposed):
    """What is added to a product is not rotated with it; products of a matrix and a vector have no heads."""

    def forward(self, x: Tensor) -> Tensor:
        y = torch.baddbmm(torch.linspace(0, 1, 6).expand(1, 8, 6).to(x), x @ x.mT, self.v(x))
        return self.proj(y) + (self.q(x) @ self.k(x)[0, 0])[..., None]


def test_sums_of_products_are_no_channels() -> None:
    assert_rotatable(traced(Added()), ())


def test_products_of_any_kind() -> None:
    model = traced(Transposed())
    names = tuple(site.name for site in model.sites if site.op == "bmm")
    assert len(names) == 2
    assert_rotatable(model, names)
