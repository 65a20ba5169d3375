"""Importance of what leaves each block: whose it is, where channels and positions lie, and its summary."""

from __future__ import annotations

import math
from functools import cache

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from autoq.errors import CalibrationError, RecipeError
from autoq.graph.blocks import find_blocks
from autoq.graph.insert import QuantizedModel
from autoq.graph.trace import trace
from autoq.sensitivity.block_importance import OutputImportance, measure_importance
from autoq.sensitivity.perturbation_hessian import PerturbationSettings, stage_hessians
from tests.graph.zoo import example

SETTINGS = PerturbationSettings(seed=3)


class Rectangular(nn.Module):
    """Patches of 2×2 in images of 8×12, a class token before them, and two residual layers."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Conv2d(1, 6, 2, 2)
        self.token = nn.Parameter(torch.randn(1, 1, 6))
        self.layers = nn.ModuleList([nn.Linear(6, 6) for _ in range(2)])
        self.head = nn.Linear(6, 3)

    def forward(self, images: Tensor) -> Tensor:
        x = self.embed(images).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1)
        for layer in self.layers:
            x = x + layer(x.tanh()).tanh()
        return self.head(x[:, 0] + x.square().mean(1))


@cache
def rectangular() -> QuantizedModel:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return QuantizedModel(trace(Rectangular().eval(), images(2)))


def images(count: int) -> Tensor:
    return torch.randn(count, 1, 8, 12, generator=torch.Generator().manual_seed(1))


def test_one_for_each_block() -> None:
    model = rectangular()
    batches = images(5).split(2)
    found = measure_importance(model, batches, SETTINGS)
    blocks = find_blocks(model)
    assert (
        [each.name for each in found] == [block.name for block in blocks] == ["embed", "layers.0", "layers.1", "head"]
    )
    expected = stage_hessians(model, batches, [block.last for block in blocks], SETTINGS)
    for each, block in zip(found, blocks, strict=True):
        (hessian,) = [value for value in expected[block.last] if value is not None]
        torch.testing.assert_close(each.hessian, hessian)
        assert each.hessian.dtype == torch.float32
    assert [each.is_logits for each in found] == [False, False, False, True]


def test_rows_and_columns_of_tokens_are_those_of_the_patches() -> None:
    found = {each.name: each for each in measure_importance(rectangular(), [images(2)], SETTINGS)}
    assert {name: (each.channel_axis, each.grid, each.extra_tokens) for name, each in found.items()} == {
        "embed": (1, (4, 6), 0),
        "layers.0": (2, (4, 6), 1),
        "layers.1": (2, (4, 6), 1),
        "head": (1, None, 0),
    }


def test_swin_keeps_rows_and_columns_through_patch_merging() -> None:
    model = QuantizedModel(example("swin").traced)
    found = measure_importance(model, [example("swin").images(1)], SETTINGS)
    assert [(each.name, tuple(each.hessian.shape), each.channel_axis, each.grid) for each in found] == [
        ("patch_embed.proj", (1, 24, 14, 14), 1, (14, 14)),
        ("layers.0.blocks.0", (1, 196, 24), 2, (14, 14)),
        ("layers.0.blocks.1", (1, 196, 24), 2, (14, 14)),
        ("layers.1.downsample.reduction", (1, 7, 7, 48), 3, (7, 7)),
        ("layers.1.blocks.0", (1, 49, 48), 2, (7, 7)),
        ("layers.1.blocks.1", (1, 49, 48), 2, (7, 7)),
        ("head.fc", (1, 1000), 1, None),
    ]
    assert all(float(each.hessian.min()) >= 0 and each.summary.mean > 0 for each in found)


def test_some_blocks_alone() -> None:
    every = {each.name: each for each in measure_importance(rectangular(), [images(3)], SETTINGS)}
    chosen = measure_importance(rectangular(), [images(3)], SETTINGS, ["layers.1", "embed"])
    assert [each.name for each in chosen] == ["embed", "layers.1"]
    for each in chosen:
        assert torch.equal(each.hessian, every[each.name].hessian)
    with pytest.raises(RecipeError, match=r"layer\.1.*Did you mean"):
        measure_importance(rectangular(), [images(3)], SETTINGS, ["layer.1"])


def test_images_are_streamed() -> None:
    counts: list[int] = []
    parts = iter(images(7).split(3))
    streamed = measure_importance(rectangular(), parts, SETTINGS, progress=counts.append)
    assert sum(counts) == 7
    for one, other in zip(streamed, measure_importance(rectangular(), [images(7)], SETTINGS), strict=True):
        torch.testing.assert_close(one.hessian, other.hessian)
    with pytest.raises(CalibrationError, match="no calibration images"):
        measure_importance(rectangular(), [], SETTINGS)


@pytest.mark.parametrize(
    ("shape", "axis"), [((1, 3, 4, 5), 1), ((1, 4, 5, 3), 3), ((1, 6, 3), 2), ((1, 7), 1), ((2, 5, 3), 2)]
)
def test_means_by_position_and_channel(shape: tuple[int, ...], axis: int) -> None:
    hessian = torch.rand(shape, generator=torch.Generator().manual_seed(0))
    each = OutputImportance("b", "b", 0, hessian, axis)
    channels = hessian.double().unbind(axis)
    assert each.by_channel.tolist() == pytest.approx([float(part.mean()) for part in channels])
    mean = sum(channels) / len(channels)
    assert each.by_position.tolist() == pytest.approx(torch.as_tensor(mean).flatten().tolist())


def slow_percentile(values: list[float], percent: float) -> float:
    ordered = sorted(values)
    place = percent / 100 * (len(ordered) - 1)
    below = math.floor(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (place - below) * (ordered[above] - ordered[below])


@given(st.lists(st.floats(0, 1e6, width=32), min_size=1, max_size=300))
def test_summary(values: list[float]) -> None:
    summary = OutputImportance("b", "b", 0, torch.tensor([values]), 1).summary
    assert summary.mean == pytest.approx(math.fsum(values) / len(values))
    assert summary.median == pytest.approx(slow_percentile(values, 50))
    assert (summary.low, summary.high) == pytest.approx((slow_percentile(values, 1), slow_percentile(values, 99)))
    assert summary.max == max(values)
    top = sorted(values, reverse=True)[: max(1, math.ceil(len(values) / 100))]
    total = math.fsum(values)
    assert summary.top_share == pytest.approx(math.fsum(top) / total if total else 0.0)
