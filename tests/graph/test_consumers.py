"""Who reads what a site computes, on small modules and on the zoo."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import timm
import torch
import torch.nn.functional as F  # noqa: N812 - as everybody calls it
from torch import Tensor, nn

from autoq.graph.consumers import consumers, linears_by_norm, source_site
from autoq.graph.trace import TracedModel
from tests.graph.small import traced
from tests.graph.zoo import example

Read = Callable[[Tensor], Tensor]


class Normed(nn.Module):
    """A LayerNorm whose output reaches a linear layer by some way, and perhaps something else."""

    def __init__(self, way: Read, beside: Read | None = None, width: int = 8) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(8)
        self.layer = nn.Linear(width, 5)
        self.way = way
        self.beside = beside

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(x)
        z = self.layer(self.way(y)).sum()
        return z if self.beside is None else z + self.beside(y).sum()


def windows(y: Tensor) -> Tensor:
    """Swin's way: pad by nothing, roll, cut."""
    y = F.pad(y, (0, 0, 0, 0)).roll(1, 1)
    return y.view(-1, 2, 3, 8).transpose(1, 2).contiguous().view(-1, 2, 8)


IN_ORDER: dict[str, Read] = {
    "nothing": lambda y: y,
    "windows": windows,
    "first_token": lambda y: y[:, 0],
    "unbound": lambda y: torch.unbind(y, 1)[1],
    "one_of_two": lambda y: torch.chunk(y, 2, 1)[0],
    "split": lambda y: y.split([2, 4], 1)[1],
    "permuted_twice": lambda y: y.permute(2, 0, 1).clone().permute(1, 2, 0),
    "turned_twice": lambda y: y.mT.mT,
    "flipped_tokens": lambda y: y.flip(1),
    "some_tokens": lambda y: y[:, torch.tensor([0, 2])],
    "expanded": lambda y: y.unsqueeze(1).expand(-1, 3, -1, -1),
    "repeated": lambda y: y.repeat(1, 2, 1),
    "as_bfloat16": lambda y: y.to(torch.bfloat16).to(torch.float32),
}
OUT_OF_ORDER: dict[str, tuple[Read, int]] = {
    "tokens_for_channels": (lambda y: y.transpose(1, 2), 6),
    "heads": (lambda y: y.unflatten(-1, (2, 4)), 4),
    "all_tokens": (lambda y: y.flatten(1), 48),
    "half_the_channels": (lambda y: y.chunk(2, -1)[0], 4),
    "rolled_channels": (lambda y: y.roll(1, -1), 8),
    "flipped_channels": (lambda y: y.flip(-1), 8),
    "interleaved_channels": (lambda y: y.unflatten(-1, (2, 4)).transpose(-1, -2).flatten(-2), 8),
}
OTHER_READERS: dict[str, Read] = {
    "residual": lambda y: y + 1,
    "scaling": lambda y: y * 2,
    "padding": lambda y: F.pad(y, (0, 0, 0, 1)),
    "joined": lambda y: torch.cat([y, y], 1),
    "stacked": lambda y: torch.stack([y, y]),
    "as_integers": lambda y: y.to(torch.int32),
    "dropout": lambda y: F.dropout(y, 0.5, training=True),
    "through_a_view": lambda y: y[:, 0].relu(),
    "comparison": lambda y: torch.where(y > 0, 1.0, 0.0),
    "overwritten_view": lambda y: y[:, 0].add_(1.0),
}


@pytest.mark.parametrize("way", IN_ORDER)
def test_moves_are_seen_through(way: str) -> None:
    found = traced(Normed(IN_ORDER[way]))
    assert consumers(found, "norm") == (("layer", "input"),)
    assert source_site(found, "layer", "input") == "norm"
    assert linears_by_norm(found) == {"norm": ("layer",)}


@pytest.mark.parametrize(
    "way",
    [
        lambda y: F.pad(y, (0, 0, 0, 1)),
        lambda y: y.to(torch.int32).to(torch.float32),
        lambda y: torch.cat([y, y], 1),
        lambda y: y * 2,
        lambda y: F.dropout(y, 0.5, training=True),
        lambda y: y.masked_fill(y > 1, 0.0),
    ],
)
def test_what_changes_values_is_not(way: Read) -> None:
    found = traced(Normed(way))
    assert consumers(found, "norm") is None
    assert source_site(found, "layer", "input") is None


@pytest.mark.parametrize("way", OUT_OF_ORDER)
def test_channels_that_change_places_are_noticed(way: str) -> None:
    read, width = OUT_OF_ORDER[way]
    assert linears_by_norm(traced(Normed(read, width=width))) == {}


def test_axes_of_one_length_are_told_apart() -> None:
    class Mixer(nn.Module):
        def __init__(self, turned: bool) -> None:
            super().__init__()
            self.norm = nn.LayerNorm(8)
            self.layer = nn.Linear(8, 8)
            self.turned = turned

        def forward(self, x: Tensor) -> Tensor:
            y = self.norm(x)
            return self.layer(y.mT if self.turned else y)

    square = torch.randn(2, 8, 8, generator=torch.Generator().manual_seed(0))
    assert linears_by_norm(traced(Mixer(False), square)) == {"norm": ("layer",)}
    turned = traced(Mixer(True), square)
    assert consumers(turned, "norm") == (("layer", "input"),)
    assert linears_by_norm(turned) == {}


def test_a_norm_over_two_axes_has_no_channel_axis() -> None:
    found = traced(nn.Sequential(nn.LayerNorm((6, 8)), nn.Linear(8, 8)))
    assert consumers(found, "0") == (("1", "input"),)
    assert linears_by_norm(found) == {}


@pytest.mark.parametrize("beside", OTHER_READERS)
def test_any_other_reader_is_noticed(beside: str) -> None:
    found = traced(Normed(lambda y: y, OTHER_READERS[beside]))
    assert consumers(found, "norm") is None
    assert linears_by_norm(found) == {}
    assert source_site(found, "layer", "input") == "norm"


@pytest.mark.parametrize(
    ("beside", "keys"),
    [
        (lambda y: y @ y.mT, (("matmul", "lhs"), ("matmul", "rhs"))),
        (lambda y: F.conv1d(y, torch.ones(3, 6, 1)), (("conv1d", "input"),)),
        (lambda y: y.softmax(-1), (("softmax", "input"),)),
    ],
)
def test_sites_beside_linear_layers_are_consumers(beside: Read, keys: tuple[tuple[str, str], ...]) -> None:
    found = traced(Normed(lambda y: y, beside))
    assert consumers(found, "norm") == (("layer", "input"), *keys)
    assert linears_by_norm(found) == {}


def test_the_model_s_own_output_is_a_reader() -> None:
    class Both(Normed):
        def forward(self, x: Tensor) -> list[Tensor]:  # type: ignore[override]
            y = self.norm(x)
            return [self.layer(y), y]

    assert consumers(traced(Both(lambda y: y)), "norm") is None


@pytest.mark.parametrize(
    "beside",
    [
        lambda y: torch.zeros_like(y),
        lambda y: y.new_ones(y.shape[1]),
        lambda y: torch.ones(2, 3).expand(y.shape[0], 2, 3),
    ],
)
def test_a_reader_of_the_shape_does_not_count(beside: Read) -> None:
    assert consumers(traced(Normed(lambda y: y, beside)), "norm") == (("layer", "input"),)


def test_a_view_in_the_shape_of_the_norm_does_not_count() -> None:
    class Viewed(Normed):
        def forward(self, x: Tensor) -> Tensor:
            y = self.norm(x)
            return self.layer(y).sum() + (x * 2).view_as(y).sum()

    assert consumers(traced(Viewed(lambda y: y)), "norm") == (("layer", "input"),)


def test_a_weight_that_comes_from_the_image_is_no_input() -> None:
    class Dynamic(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.LayerNorm(8)

        def forward(self, x: Tensor) -> Tensor:
            y = self.norm(x)
            return F.linear(y, y[0])

    found = traced(Dynamic())
    assert consumers(found, "norm") == (("linear", "input"), ("linear", "weight"))
    assert linears_by_norm(found) == {}


def test_norms_and_softmaxes_follow_one_another() -> None:
    class Chain(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.LayerNorm(8), nn.LayerNorm(8)
            self.layer = nn.Linear(8, 8)

        def forward(self, x: Tensor) -> Tensor:
            y = self.layer(self.second(self.first(x)[:, 1:]))
            return (F.dropout((y @ y.mT).softmax(-1), 0.5, self.training) @ y) * 2

    found = traced(Chain())
    assert consumers(found, "first") == (("second", "input"),)
    assert consumers(found, "second") == (("layer", "input"),)
    assert consumers(found, "softmax") == (("av", "lhs"),)
    assert consumers(found, "av") is None
    assert consumers(found, "qk") == (("softmax", "input"),)
    assert source_site(found, "second", "input") == "first"
    assert source_site(found, "av", "lhs") == "softmax"
    for site, operand in [("first", "input"), ("layer", "weight"), ("softmax", "input"), ("av", "rhs")]:
        assert source_site(found, site, operand) is None


def test_what_the_model_does_not_have_is_a_key_error() -> None:
    found = traced(Normed(lambda y: y))
    with pytest.raises(KeyError):
        consumers(found, "nowhere")
    with pytest.raises(KeyError):
        source_site(found, "layer", "lhs")


def reference_sources(found: TracedModel) -> dict[tuple[str, str], str | None]:
    """The inverse of ``consumers``: an operand that is read from a site comes from it."""
    sources: dict[tuple[str, str], str | None] = {}
    for site in found.sites:
        if site.op in ("layer_norm", "softmax"):
            sources |= dict.fromkeys(consumers(found, site.name) or (), site.name)
    return sources


@pytest.mark.parametrize("name", ["vit", "swin", "cait", "xcit", "pvt_v2", "yolos_sdpa"])
def test_consumers_and_sources_agree(name: str) -> None:
    found = example(name).traced
    expected = reference_sources(found)
    assert expected
    for key, source in expected.items():
        assert source_site(found, *key) == source


def test_published_norms_of_a_vit() -> None:
    expected = {f"blocks.{i}.norm1": (f"blocks.{i}.attn.qkv",) for i in range(2)}
    expected |= {f"blocks.{i}.norm2": (f"blocks.{i}.mlp.fc1",) for i in range(2)}
    assert linears_by_norm(example("vit").traced) == expected | {"norm": ("head",)}


def test_published_norms_of_a_swin() -> None:
    blocks = [f"layers.{stage}.blocks.{i}" for stage in range(2) for i in range(2)]
    expected = {f"{block}.norm1": (f"{block}.attn.qkv",) for block in blocks}
    expected |= {f"{block}.norm2": (f"{block}.mlp.fc1",) for block in blocks}
    expected |= {"layers.1.downsample.norm": ("layers.1.downsample.reduction",)}
    found = example("swin").traced
    assert linears_by_norm(found) == expected
    assert consumers(found, "patch_embed.norm") is None  # a residual branch goes around the first block


def test_windows_that_do_not_fit_are_padded_with_zeros() -> None:
    options = {"embed_dim": 24, "depths": (1,), "num_heads": (2,), "img_size": 48, "window_size": 7, "num_classes": 3}
    model = timm.create_model("swin_tiny_patch4_window7_224", pretrained=False, **options)
    found = traced(model, torch.randn(2, 3, 48, 48, generator=torch.Generator().manual_seed(0)))
    assert consumers(found, "layers.0.blocks.0.norm1") is None
    assert linears_by_norm(found) == {"layers.0.blocks.0.norm2": ("layers.0.blocks.0.mlp.fc1",)}


def test_norms_with_several_readers() -> None:
    block = "blocks_token_only.0"
    assert linears_by_norm(example("cait").traced)[f"{block}.norm1"] == tuple(f"{block}.attn.{part}" for part in "qkv")
    # The class attention of XCiT hands the tokens on beside it; ConvNeXt and PVT have convolutions there.
    for name, norm in [
        ("xcit", "cls_attn_blocks.0.norm1"),
        ("xcit", "blocks.0.norm3"),
        ("convnext", "stages.0.blocks.0.norm"),
        ("pvt_v2", "stages.0.blocks.0.norm1"),
        ("swinv2", "layers.0.blocks.0.norm1"),
    ]:
        assert norm in example(name).traced.sites_by_name
        assert norm not in linears_by_norm(example(name).traced)
