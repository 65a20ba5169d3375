"""Cost of single sites, computed by hand."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoq.cost import model_cost, site_cost
from autoq.graph.sites import GroupGeometry, Operand, Site
from autoq.quantizers.granularity import OperandLayout
from autoq.recipe import OperandConfig, SiteConfig
from tests.graph.zoo import example


def uniform(bits: int, **options: object) -> OperandConfig:
    return OperandConfig.model_validate({"scheme": "uniform", "bits": bits} | options)


def instance_groups(bits: int, groups: int) -> OperandConfig:
    return OperandConfig(scheme="instance_groups", bits=bits, groups=groups)


# Three tokens of ten channels feed five features.
LINEAR = Site(
    "fc",
    "linear",
    3 * 10 * 5,
    (
        Operand("input", (1, 3, 10), "layer_norm", OperandLayout(3, -1, None, -1, -1), GroupGeometry(1, 3, 10, 5)),
        Operand("weight", (5, 10), "parameter", OperandLayout(2, -2, group_axis=-1, instances_per_image=0)),
    ),
)
# Two heads: five queries attend to six keys, whose values have four channels.
ATTENTION = Site(
    "av",
    "matmul",
    2 * 5 * 6 * 4,
    (
        Operand("lhs", (1, 2, 5, 6), "softmax", OperandLayout(4, -1, -3, -1, -2), GroupGeometry(2, 6, 5, 4)),
        Operand("rhs", (1, 2, 6, 4), "other", OperandLayout(4, -1, -3, -2)),
    ),
)
NORM = Site("norm", "layer_norm", 0, (Operand("input", (1, 3, 10), "other", OperandLayout(3, -1)),))
SITES = (NORM, LINEAR, ATTENTION)


def test_a_site_costs_its_macs_times_both_widths() -> None:
    cost = site_cost(LINEAR, {"input": uniform(3), "weight": uniform(5)})
    assert (cost.macs, cost.bits, cost.bops, cost.group_bops, cost.has_weight) == (150, (3, 5), 150 * 15, 0, True)
    cost = site_cost(ATTENTION, {"lhs": uniform(8), "rhs": uniform(2)})
    assert (cost.macs, cost.bits, cost.bops, cost.group_bops, cost.has_weight) == (240, (8, 2), 240 * 16, 0, False)


@pytest.mark.parametrize(
    ("config", "bops"),
    [
        ({}, 150 * 32 * 32),
        ({"input": uniform(4)}, 150 * 4 * 32),
        ({"weight": uniform(4)}, 150 * 32 * 4),
    ],
)
def test_an_operand_in_floating_point_counts_32_bits(config: SiteConfig, bops: int) -> None:
    assert site_cost(LINEAR, config).bops == bops
    assert model_cost([LINEAR], {"fc": config} if config else {}).bops == bops


def test_static_groups_of_a_linear_input_are_rescaled() -> None:
    # T·N·G·acc·8 with acc = 3 + 4 + ceil(log2(10 / 4)) = 3 + 4 + 2
    cost = site_cost(LINEAR, {"input": uniform(3, granularity="group", groups=4), "weight": uniform(4)})
    assert cost.group_bops == 3 * 5 * 4 * 9 * 8 == 4320
    assert cost.bops == 150 * 3 * 4


def test_instance_aware_groups_of_a_linear_input_are_assigned_too() -> None:
    # and 2·T·C·bits_a for the bounds of the channels, 2·C·G·16² for their distances
    cost = site_cost(LINEAR, {"input": instance_groups(3, 4), "weight": uniform(4)})
    assert cost.group_bops == 4320 + 2 * 3 * 10 * 3 + 2 * 10 * 4 * 256 == 24_980


def test_instance_aware_groups_of_attention_rows() -> None:
    # Rows in place of channels: C = 5 queries, T = 6 keys, N = 4; acc = 4 + 5 + ceil(log2(5 / 2)) = 11; two heads.
    cost = site_cost(ATTENTION, {"lhs": instance_groups(4, 2), "rhs": uniform(5)})
    one_head = 6 * 4 * 2 * 11 * 8 + 2 * 6 * 5 * 4 + 2 * 5 * 2 * 256
    assert one_head == 4224 + 240 + 5120
    assert cost.group_bops == 2 * one_head == 19_168


def test_the_accumulator_is_as_wide_as_a_floating_point_partner_makes_it() -> None:
    cost = site_cost(LINEAR, {"input": uniform(3, granularity="group", groups=4)})
    assert cost.group_bops == 3 * 5 * 4 * (3 + 32 + 2) * 8


def test_no_more_groups_are_counted_than_channels_exist() -> None:
    # acc = 3 + 4 + ceil(log2(10 / 10))
    cost = site_cost(LINEAR, {"input": uniform(3, granularity="group", groups=99), "weight": uniform(4)})
    assert cost.group_bops == 3 * 5 * 10 * 7 * 8


@pytest.mark.parametrize("scheme", ["uniform", "instance_groups"])
def test_one_group_costs_nothing_extra(scheme: str) -> None:
    config = OperandConfig(scheme=scheme, bits=4, groups=1)
    assert site_cost(LINEAR, {"input": config, "weight": uniform(4)}).group_bops == 0


def test_static_groups_of_a_weight_are_rescaled_unless_it_is_decoded_ahead() -> None:
    # acc = 4 + 3 + ceil(log2(10 / 2))
    grouped = uniform(4, granularity="group", groups=2)
    assert site_cost(LINEAR, {"weight": grouped, "input": uniform(3)}).group_bops == 3 * 5 * 2 * (4 + 3 + 3) * 8
    assert site_cost(LINEAR, {"weight": grouped}).group_bops == 0


def test_static_groups_of_values_are_rescaled() -> None:
    """Of the small DeiT: three heads, 17 tokens, 16 channels a head; sums are over tokens."""
    site = example("deit").traced.sites_by_name["blocks.0.attn.av"]
    heads, tokens, channels = site.operand("rhs").shape[1:]
    cost = site_cost(site, {"lhs": uniform(8), "rhs": uniform(4, granularity="group", groups=2)})
    assert site.macs == heads * tokens * tokens * channels
    assert cost.group_bops == heads * tokens * channels * 2 * (8 + 4 + math.ceil(math.log2(tokens / 2))) * 8


def test_blocks_of_a_format_are_rescaled_and_their_scales_found() -> None:
    """Two blocks of 32 for 48 channels, both operands with scales of their own."""
    site = example("deit").traced.sites_by_name["blocks.0.attn.qkv"]
    mxfp4 = OperandConfig(scheme="mxfp4", bits=4)
    cost = site_cost(site, {"input": mxfp4, "weight": mxfp4})
    rescaling = 17 * 144 * 2 * (4 + 4 + 5) * 1  # a power of two shifts
    assert cost.group_bops == 2 * rescaling + 17 * 48 * 4
    assert cost.bops == 17 * 48 * 144 * 16
    nvfp4 = OperandConfig(scheme="nvfp4", bits=4)
    rescaling = 17 * 144 * 3 * (4 + 4 + 4) * 4  # by E4M3, whose significand has four bits
    assert site_cost(site, {"input": nvfp4, "weight": nvfp4}).group_bops == 2 * rescaling + 17 * 48 * 4


def test_groups_on_a_traced_model() -> None:
    """The qkv layer of the small DeiT: 17 tokens, 48 channels, 144 features."""
    site = example("deit").traced.sites_by_name["blocks.0.attn.qkv"]
    cost = site_cost(site, {"input": instance_groups(4, 8), "weight": uniform(4)})
    accumulator = 4 + 4 + 3  # log2(48 / 8) = 2.58
    assert cost.group_bops == 17 * 144 * 8 * accumulator * 8 + 2 * 17 * 48 * 4 + 2 * 48 * 8 * 256
    assert cost.bops == 17 * 48 * 144 * 16


def test_groups_of_a_convolution_s_input() -> None:
    """The patch embedding of the small DeiT sums over 3 × 8 × 8 pixels at each of 4 × 4 places, for 48 features."""
    geometry = example("deit").traced.sites_by_name["patch_embed.proj"].operand("input").group_geometry
    assert geometry == GroupGeometry(copies=1, tokens=16, channels=3 * 8 * 8, outputs=48)


def test_totals_and_their_parts() -> None:
    recipe = {
        "norm": {"input": uniform(8)},
        "fc": {"input": instance_groups(3, 4), "weight": uniform(4)},
        "av": {"lhs": instance_groups(4, 2), "rhs": uniform(5)},
    }
    cost = model_cost(SITES, recipe)
    assert [site.site for site in cost.sites] == ["fc", "av"]  # a norm multiplies nothing
    assert cost.group_bops == 24_980 + 19_168
    assert cost.weight_layers_only_bops == 150 * 12
    assert cost.bops == 150 * 12 + 240 * 20 + cost.group_bops
    record = cost.record()
    assert (record.bops, record.group_bops) == (cost.bops, cost.group_bops)
    assert (record.weight_layers_only_bops, record.weight_bytes) == (cost.weight_layers_only_bops, 25 + 5)


OPERANDS = [("fc", "input"), ("fc", "weight"), ("av", "lhs"), ("av", "rhs")]


@given(
    bits=st.lists(st.integers(1, 16), min_size=4, max_size=4),
    groups=st.lists(st.integers(1, 12), min_size=4, max_size=4),
    scheme=st.sampled_from(["uniform", "instance_groups"]),
    raised=st.integers(0, 3),
)
def test_more_bits_never_cost_less(bits: list[int], groups: list[int], scheme: str, raised: int) -> None:
    def cost(widths: list[int]) -> tuple[int, int, int, int]:
        recipe: dict[str, SiteConfig] = {}
        for (site, operand), width, count in zip(OPERANDS, widths, groups, strict=True):
            recipe.setdefault(site, {})[operand] = OperandConfig(scheme=scheme, bits=width, groups=count)
        total = model_cost(SITES, recipe)
        assert total.bops == sum(site.bops for site in total.sites) + total.group_bops
        return total.bops, total.group_bops, total.weight_layers_only_bops, total.weight_bytes

    wider = [width + (index == raised and width < 16) for index, width in enumerate(bits)]
    before, after = cost(bits), cost(wider)
    assert all(a <= b for a, b in zip(before, after, strict=True))
    if wider != bits:
        assert before[0] < after[0]


def hadamard_site(block: int) -> tuple[Site, SiteConfig]:
    """Five tokens of 48 channels feed 20 features."""
    layout = OperandLayout(3, -1, group_axis=-1, summed_axis=-1)
    operands = (
        Operand("input", (1, 5, 48), "gelu", layout, GroupGeometry(1, 5, 48, 20)),
        Operand("weight", (20, 48), "parameter", OperandLayout(2, -2, None, -1, None, 0, -1)),
    )
    config = OperandConfig(scheme="hadamard", bits=4, hadamard_block=block)
    weight = OperandConfig(scheme="hadamard", bits=3, granularity="channel", hadamard_block=block)
    return Site("fc2", "linear", 5 * 48 * 20, operands), {"input": config, "weight": weight}


@pytest.mark.parametrize(("block", "levels"), [(1, 0), (2, 1), (8, 3), (16, 4), (1024, 4)])
def test_a_transform_of_the_input_costs_additions_and_one_of_the_weight_nothing(block: int, levels: int) -> None:
    site, config = hadamard_site(block)
    cost = site_cost(site, config)
    assert cost.bops == 5 * 48 * 20 * 4 * 3
    assert cost.group_bops == 5 * 48 * levels * 16
    model = model_cost([site], {"fc2": config})
    assert (model.group_bops, model.bops) == (cost.group_bops, cost.bops + cost.group_bops)
    assert model.weight_layers_only_bops == cost.bops
    assert site_cost(site, {"weight": config["weight"]}).group_bops == 0


def test_a_butterfly_makes_as_many_additions_as_are_counted() -> None:
    site, config = hadamard_site(16)
    additions = 0
    values = [float(index % 7) for index in range(16)]
    span = 1
    while span < 16:
        for start in range(0, 16, 2 * span):
            for index in range(start, start + span):
                low, high = values[index], values[index + span]
                values[index], values[index + span] = low + high, low - high
                additions += 2
        span *= 2
    assert site_cost(site, config).group_bops == 5 * 48 // 16 * additions * 16
