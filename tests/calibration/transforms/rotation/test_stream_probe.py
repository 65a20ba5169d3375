"""What passes a residual stream on, and what makes it unfit for a rotation."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - as everybody calls it
from torch import Tensor, nn

from autoq.calibration.transforms.rotation.find import find_spaces
from tests.calibration.transforms.rotation.models import ALL, AV, QK, STREAM, WIDTH, Encoder, assert_rotatable, traced

HEADS_ALONE = (QK, AV)
CASES: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "plain": ({}, ALL),
    "without biases": ({"bias": False}, ALL),
    "scaled by a number": ({"embedded": lambda x: x / 2}, ALL),
    "tokens scaled": ({"embedded": lambda x: x * torch.linspace(0, 1, 8)[:, None].to(x)}, ALL),
    "mean over tokens": ({"final": lambda x: x[:, 1:].mean(1)}, ALL),
    "pooled tokens": ({"final": lambda x: F.adaptive_avg_pool1d(x.transpose(1, 2), 1).flatten(1)}, ALL),
    "token and mean": ({"final": lambda x: torch.cat([x[:, 0], x[:, 1:].mean(1)], -1), "inputs": 2 * WIDTH}, ALL),
    "rolled tokens": ({"embedded": lambda x: x.roll(3, 1)}, ALL),
    "stacked tokens": ({"embedded": lambda x: torch.stack([x[:, 0], *x[:, 1:].unbind(1)], 1)}, ALL),
    "tokens of zeros": ({"embedded": lambda x: F.pad(x, (0, 0, 2, 1))[:, 1:-2]}, ALL),
    "difference of tokens": ({"embedded": lambda x: x - x.mean(1, keepdim=True)}, ALL),
    "tokens merged after the norm": (
        {"final": lambda x: x[:, 1:].unflatten(1, (4, 2)).flatten(2), "inputs": 2 * WIDTH},
        HEADS_ALONE,
    ),
    "zeros beside normed tokens": ({"final": lambda x: F.pad(x, (0, 0, 1, 0))}, HEADS_ALONE),
    "tokens of ones": ({"embedded": lambda x: F.pad(x, (0, 0, 1, 0), value=1.0)[:, :8]}, HEADS_ALONE),
    "sum of normed tokens": ({"final": lambda x: x.sum(1)}, HEADS_ALONE),
    "mean over channels": ({"embedded": lambda x: x.mean(-1, keepdim=True).expand(-1, -1, WIDTH)}, HEADS_ALONE),
    "added after the norm": ({"final": lambda x: x + x.mean(1, keepdim=True)}, HEADS_ALONE),
    "a nonlinear stream": ({"embedded": F.gelu}, HEADS_ALONE),
    "a product of streams": ({"embedded": lambda x: x * x}, HEADS_ALONE),
    "a shuffled stream": ({"embedded": lambda x: x.flip(-1)}, HEADS_ALONE),
    "factors for each channel of each token": (
        {"embedded": lambda x: x[:, :1] * torch.linspace(1, 2, WIDTH).expand(8, WIDTH).to(x)},
        HEADS_ALONE,
    ),
    "a rounded stream": ({"embedded": lambda x: torch.div(x, 0.5, rounding_mode="floor")}, HEADS_ALONE),
    "a pooled map": (
        {"final": lambda x: x.transpose(1, 2).unflatten(2, (3, 3)).mean((2, 3), keepdim=True).flatten(1)},
        ALL,
    ),
    "a number added": ({"embedded": lambda x: x + 1}, HEADS_ALONE),
}


@pytest.mark.parametrize("name", CASES)
def test_streams(name: str) -> None:
    options, expected = CASES[name]
    assert_rotatable(traced(Encoder(**options)), expected)


def test_merged_tokens_are_copies_of_the_space() -> None:
    class Merging(nn.Module):
        """Swin's patch merging: the LayerNorm is over four tokens side by side."""

        def __init__(self) -> None:
            super().__init__()
            self.embed, self.reduction = nn.Linear(5, WIDTH), nn.Linear(4 * WIDTH, 7, bias=False)
            self.norm = nn.LayerNorm(4 * WIDTH)

        def forward(self, x: Tensor) -> Tensor:
            x = self.embed(x).unflatten(1, (2, 2, 2)).permute(0, 2, 3, 1, 4).flatten(1, 2)
            return self.reduction(self.norm(x.flatten(2)[:, :, : 2 * WIDTH].repeat(1, 1, 2)))

    model = traced(Merging())
    assert_rotatable(model, (STREAM,))
    [reader] = find_spaces(model).rotatable[STREAM].readers
    assert torch.equal(reader.numbers, torch.arange(4 * WIDTH).view(4, WIDTH))


def test_a_token_that_something_else_reads_stays() -> None:
    class Shared(Encoder):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) + self.token.expand(x.shape[0], -1, -1)[..., :1].relu()

    assert_rotatable(traced(Shared()), HEADS_ALONE)


def test_a_layer_scale_whose_input_is_read_elsewhere_stays() -> None:
    class Read(Encoder):
        def forward(self, x: Tensor) -> Tensor:
            y = self.proj(self.embed(x))
            return self.head(self.embed(x) + y * self.gamma + y)

    model = traced(Read())
    assert_rotatable(model, (STREAM,))  # of the first call, which only proj reads
    assert find_spaces(model).refused.keys() >= {"proj", f"{STREAM}@2"}


def test_an_output_is_read() -> None:
    class Features(Encoder):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            x = self.embed(x)
            return self.head(x), x

    assert find_spaces(traced(Features())).refused[STREAM] == "'output' takes its channels as they are"


class Convolutions(nn.Module):
    """A stem, and what reads it."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.narrow = nn.Conv2d(3, WIDTH, 2, 2), nn.Conv2d(WIDTH, 8, 2, 2)
        self.wide, self.single = nn.Conv2d(WIDTH, 4, 3, padding=1), nn.Conv2d(WIDTH, WIDTH, 3, groups=WIDTH)
        self.norm = nn.LayerNorm(WIDTH)

    def normed(self, x: Tensor) -> Tensor:
        return self.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.narrow(self.normed(self.stem(x))), self.wide(self.stem(x))


class Depthwise(Convolutions):
    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        return self.single(self.stem(x))


class PaddedNorm(Convolutions):
    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        return self.wide(self.normed(self.stem(x)))


@pytest.mark.parametrize(("kind", "expected"), [(Convolutions, ("stem", "stem@2")), (Depthwise, ()), (PaddedNorm, ())])
def test_convolutions_write_and_read_streams(kind: type[Convolutions], expected: tuple[str, ...]) -> None:
    images = torch.randn(2, 3, 16, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert_rotatable(traced(kind(), images), expected, images)
