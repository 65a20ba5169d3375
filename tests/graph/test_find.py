"""Which nodes are sites, what they cost, and how their operands lie."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from autoq.graph.sites import GroupGeometry
from autoq.graph.trace import trace
from tests.graph.small import traced
from tests.graph.zoo import example


class Einsum(nn.Module):
    def __init__(self, equation: str) -> None:
        super().__init__()
        self.equation = equation

    def forward(self, x: Tensor) -> Tensor:
        return torch.einsum(self.equation, *[x] * (self.equation.count(",") + 1))


@pytest.mark.parametrize(
    ("equation", "macs"),
    [
        ("bnc,bmc->bnm", 6 * 6 * 8),
        (" bnc , bmc -> bmn ", 6 * 6 * 8),
        ("bnc,bnd->bcd", 8 * 8 * 6),
        ("bnc,bnc->bn", 6 * 8),
        ("bnc,bmd->bnd", 6 * 8 * 6 * 8),
    ],
)
def test_an_einsum_of_two_is_a_site(equation: str, macs: int) -> None:
    [site, _] = traced(Einsum(equation)).sites
    assert (site.name, site.op, site.macs) == ("einsum", "einsum", macs)
    assert [operand.name for operand in site.operands] == ["lhs", "rhs"]


@pytest.mark.parametrize(
    ("equation", "reason"),
    [
        ("bnc,bmd", "computed once, not for every image"),  # without an arrow, b is summed over
        ("...nc,...mc->...nm", "an einsum with an ellipsis is not analysed"),
        ("bnc,bmc,bmd->bnd", "an einsum of 3 operands is no product of two"),
    ],
)
def test_other_einsums_are_reported(equation: str, reason: str) -> None:
    found = traced(Einsum(equation))
    assert not [site for site in found.sites if site.macs]
    assert [(op.name, op.op, op.reason) for op in found.uncounted] == [("einsum", "einsum", reason)]


def test_an_einsum_without_an_arrow_keeps_the_letters_that_occur_once() -> None:
    class Projection(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.randn(8, 5))

        def forward(self, x: Tensor) -> Tensor:
            return torch.einsum("bnc,cd", x, self.weight)

    [site, _] = traced(Projection()).sites
    assert site.macs == 6 * 8 * 5
    assert [operand.producer for operand in site.operands] == ["other", "parameter"]


def test_a_product_across_images_is_no_site() -> None:
    class Mixing(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            flat = x.flatten(1)
            return (flat @ flat.T) @ flat

    reasons = [op.reason for op in traced(Mixing()).uncounted]
    assert reasons[0] == "it mixes the images of a batch"


def test_token_major_operands_are_not_taken_for_windows() -> None:
    """nn.MultiheadAttention works on (tokens, images, channels): the entries of one image are not neighbours."""

    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

        def forward(self, x: Tensor) -> Tensor:
            return self.attention(x, x, x, need_weights=False)[0]

    by_name = traced(Attention()).sites_by_name
    assert list(by_name) == [
        "attention",
        *(f"attention.{part}" for part in ("qk", "softmax", "av", "out_proj")),
        "output",
    ]
    for site in ("attention", "attention.out_proj"):
        layout = by_name[site].operand("input").layout
        assert (layout.instances_per_image, layout.instance_group_axis) == (1, None)
    assert by_name["attention.av"].operand("lhs").layout.instance_group_axis == -2


@pytest.mark.parametrize(
    ("module", "op"), [(nn.LSTM(8, 8, batch_first=True), "lstm"), (nn.ConvTranspose1d(6, 3, 2), "conv_transpose1d")]
)
def test_products_without_a_site_are_reported(module: nn.Module, op: str) -> None:
    class First(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = module

        def forward(self, x: Tensor) -> Tensor:
            result = self.inner(x)
            return result[0] if isinstance(result, tuple) else result

    found = traced(First())
    [uncounted] = found.uncounted
    assert uncounted.op == op
    assert uncounted.name.startswith("inner")
    assert list(found.sites_by_name) == ["output"]


def test_windows_of_swin_are_instances_of_their_image() -> None:
    """Stage one has 14 × 14 tokens in 2 × 2 windows of 7 × 7, stage two 7 × 7 tokens in one."""
    windows = {
        f"{site.name}:{operand.name}": operand.layout.instances_per_image
        for site, operand in example("swin").traced.operands()
        if not operand.is_weight
    }
    of_attention = {key: count for key, count in windows.items() if ".attn." in key}
    assert of_attention == {key: 4 if key.startswith("layers.0.") else 1 for key in of_attention}
    assert all(count == 1 for key, count in windows.items() if key not in of_attention)


def test_shapes_and_axes_of_swin_attention() -> None:
    traced = example("swin").traced
    qkv, qk, av = (traced.sites_by_name[f"layers.0.blocks.1.attn.{part}"] for part in ("qkv", "qk", "av"))
    assert qkv.operand("input").shape == (4, 49, 24)
    assert qkv.operand("weight").shape == (72, 24)
    assert qk.operand("lhs").shape == (4, 2, 49, 12)
    assert qk.operand("rhs").shape == (4, 2, 12, 49)
    assert av.operand("lhs").shape == (4, 2, 49, 49)
    assert av.operand("rhs").shape == (4, 2, 49, 12)

    layout = qkv.operand("input").layout
    assert (layout.channel_axis, layout.group_axis, layout.instance_group_axis, layout.head_axis) == (-1, -1, -1, None)
    layout = qkv.operand("weight").layout
    assert (layout.channel_axis, layout.group_axis, layout.instances_per_image) == (-2, -1, 0)
    layout = qk.operand("rhs").layout  # keys come transposed: their channels are rows
    assert (layout.channel_axis, layout.group_axis, layout.head_axis) == (-2, -2, -3)
    layout = av.operand("lhs").layout  # rows are token rows of the attention map
    assert (layout.channel_axis, layout.group_axis, layout.instance_group_axis, layout.head_axis) == (-1, -1, -2, -3)
    layout = av.operand("rhs").layout
    assert (layout.channel_axis, layout.group_axis, layout.instance_group_axis) == (-1, -2, None)


def test_geometry_of_groups_of_swin() -> None:
    traced = example("swin").traced
    geometry = traced.sites_by_name["layers.0.blocks.0.attn.qkv"].operand("input").group_geometry
    assert geometry is not None  # 4 windows × 49 tokens
    assert (geometry.copies, geometry.tokens, geometry.channels, geometry.outputs) == (1, 196, 24, 72)
    geometry = traced.sites_by_name["layers.0.blocks.0.attn.av"].operand("lhs").group_geometry
    assert geometry is not None  # 4 windows × 2 heads
    assert (geometry.copies, geometry.tokens, geometry.channels, geometry.outputs) == (8, 49, 49, 12)
    for site, operand in (("layers.0.blocks.0.attn.av", "rhs"), ("layers.0.blocks.0.attn.qkv", "weight")):
        assert traced.sites_by_name[site].operand(operand).group_geometry is None
    # One value a channel and image has no range of its own.
    assert traced.sites_by_name["head.fc"].operand("input").group_geometry is None


def test_a_table_of_positions_is_reported_as_computed_once() -> None:
    class Positions(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x + torch.outer(torch.arange(float(x.shape[1])), torch.ones(x.shape[2]))

    [uncounted] = traced(Positions()).uncounted
    assert (uncounted.op, uncounted.reason) == ("outer", "computed once, not for every image")


@pytest.mark.parametrize(
    "settings",
    [
        {"kernel_size": 2, "stride": 2},
        {"kernel_size": 3, "stride": 2, "padding": 1, "output_padding": 1},
        {"kernel_size": (4, 3), "dilation": 2, "groups": 2},
    ],
)
def test_a_transposed_convolution_multiplies_each_input_with_the_whole_kernel(settings: dict[str, Any]) -> None:
    module = nn.Sequential(nn.ConvTranspose2d(4, 6, **settings)).eval()
    [site, _] = trace(module, torch.randn(2, 4, 5, 7)).sites
    kernel = module[0].weight
    assert (site.name, site.op, site.macs) == ("0", "conv_transpose2d", 4 * 5 * 7 * kernel[0].numel())
    with FlopCounterMode(display=False) as counter:
        module(torch.randn(1, 4, 5, 7))
    assert counter.get_total_flops() == 2 * site.macs
    given, weight = site.operand("input"), site.operand("weight")
    is_grouped = settings.get("groups", 1) > 1
    assert (weight.layout.channel_axis, weight.layout.group_axis) == (-3, -4)
    assert weight.layout.summed_axis == (None if is_grouped else -4)
    assert (given.layout.channel_axis, given.layout.summed_axis) == (-3, None if is_grouped else -3)
    geometry = GroupGeometry(copies=1, tokens=35, channels=4, outputs=kernel[0].numel())
    assert given.group_geometry == (None if is_grouped else geometry)
