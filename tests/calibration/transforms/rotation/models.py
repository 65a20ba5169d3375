"""Small modules with a residual stream of twelve channels and two heads of six, each with something of its own."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from autoq.calibration.transforms.rotation.find import find_spaces
from autoq.calibration.transforms.rotation.rotate import rotate
from autoq.graph.trace import TracedModel, trace

WIDTH, HEADS = 12, 2
STREAM, QK, AV = "embed", "qk", "av"
"""Names of a module's spaces."""
ALL = (STREAM, QK, AV)


def batch(count: int = 2) -> Tensor:
    """Tokens of five numbers, in double precision."""
    return torch.randn(count, 8, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def traced(module: nn.Module, x: Tensor | None = None) -> TracedModel:
    """Trace a module in double precision, its parameters random."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in module.double().parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    return trace(module.eval(), batch() if x is None else x)


@torch.no_grad()
def outputs(model: TracedModel, x: Tensor | None = None) -> list[Tensor]:
    """Run a traced model."""
    leaves = pytree.tree_leaves(model.graph_module(batch() if x is None else x))
    return [leaf for leaf in leaves if isinstance(leaf, Tensor)]


def split(x: Tensor) -> Tensor:
    """Split channels into heads, before the tokens."""
    return x.unflatten(-1, (HEADS, -1)).transpose(1, 2)


class Encoder(nn.Module):
    """A transformer block without an MLP; parts of it can be replaced.

    Args:
        embedded: what is done to the embedded tokens.
        attended: what is done to queries and keys, and to values.
        joined: what is done to the product's result.
        final: what is done to the last LayerNorm's output before the head.
        inputs: channels that the head reads.
        bias: whether layers have one.
    """

    def __init__(
        self,
        embedded: Callable[[Tensor], Tensor] = lambda x: x,
        attended: Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor, Tensor]] = lambda q, k, v: (q, k, v),
        joined: Callable[[Tensor], Tensor] = lambda x: x,
        final: Callable[[Tensor], Tensor] = lambda x: x,
        inputs: int = WIDTH,
        bias: bool = True,
    ) -> None:
        super().__init__()
        self.embedded, self.attended, self.joined, self.final = embedded, attended, joined, final
        self.embed, self.qkv = nn.Linear(5, WIDTH, bias=bias), nn.Linear(WIDTH, 3 * WIDTH, bias=bias)
        self.proj, self.head = nn.Linear(WIDTH, WIDTH, bias=bias), nn.Linear(inputs, 3, bias=bias)
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH, bias=bias), nn.LayerNorm(WIDTH)
        self.token, self.position = nn.Parameter(torch.zeros(1, 1, WIDTH)), nn.Parameter(torch.zeros(9, WIDTH))
        self.gamma = nn.Parameter(torch.zeros(WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        x = self.embedded(self.embed(x))
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1) + self.position
        q, k, v = self.attended(*map(split, self.qkv(self.norm1(x)).chunk(3, -1)))
        y = (q @ k.mT * 0.5).softmax(-1) @ v
        x = x + self.gamma * self.proj(self.joined(y.transpose(1, 2).flatten(2)))
        return self.head(self.final(self.norm2(x)))


def assert_exact(actual: TracedModel, expected: TracedModel, x: Tensor | None = None) -> None:
    """Compare two models in double precision."""
    pairs = list(zip(outputs(actual, x), outputs(expected, x), strict=True))
    assert pairs
    for one, other in pairs:
        assert (one - other).abs().max() < 1e-12 * other.abs().max()


def assert_rotatable(model: TracedModel, expected: tuple[str, ...], x: Tensor | None = None) -> None:
    """Check which spaces can be rotated, that nothing changes in full precision, and that each rotation does something.

    Args:
        model: in double precision.
        expected: names of all its spaces that can be.
        x: what it is run on.
    """
    found = find_spaces(model)
    assert tuple(found.rotatable) == expected
    rotated = rotate(model, {space: 5 + seed for seed, space in enumerate(expected)})
    assert rotated.sites == model.sites
    assert_exact(rotated, model, x)
    for name in expected:
        space, one = found.rotatable[name], rotate(model, {name: 1})
        layers = [layer.node for layer in (*space.writers, *space.readers)]
        sites = [site for (site, operand), edge in model.edges.items() if edge.node in layers and operand == "weight"]
        assert sites
        assert not any(torch.allclose(one.weight(site), model.weight(site)) for site in sites)
