"""Costs of published architectures, from formulas written out here: tokens, widths, heads, windows."""

from __future__ import annotations

import functools

import pytest
import timm
import torch

from autoq.cost import model_cost, uniform_bops
from autoq.graph.trace import TracedModel, trace
from autoq.recipe import OperandConfig, SiteConfig

DEIT_WIDTHS = {"tiny": 192, "small": 384, "base": 768}


@functools.cache
def traced(architecture: str) -> TracedModel:
    timm.layers.set_fused_attn(False)
    model = timm.create_model(architecture, pretrained=False).eval()
    return trace(model, torch.zeros(2, 3, 224, 224))


def deit_tiny() -> TracedModel:
    return traced("deit_tiny_patch16_224")


def deit_macs(width: int) -> dict[str, int]:
    """14 × 14 patches of 16 × 16 × 3 pixels and a class token, 12 blocks, four times wider inside, 1000 classes."""
    patches = 14 * 14
    tokens = patches + 1
    macs = {"patch_embed.proj": patches * width * 16 * 16 * 3}
    for block in range(12):
        macs |= {
            f"blocks.{block}.attn.qkv": tokens * width * 3 * width,
            f"blocks.{block}.attn.qk": tokens * tokens * width,  # all heads together
            f"blocks.{block}.attn.av": tokens * tokens * width,
            f"blocks.{block}.attn.proj": tokens * width * width,
            f"blocks.{block}.mlp.fc1": tokens * width * 4 * width,
            f"blocks.{block}.mlp.fc2": tokens * 4 * width * width,
        }
    return macs | {"head": width * 1000}


def swin_tiny_macs() -> dict[str, int]:
    """Four stages of 56², 28², 14² and 7² tokens, 96 to 768 wide, attention within windows of 7 × 7."""
    macs = {"patch_embed.proj": 56 * 56 * 96 * 4 * 4 * 3}
    for stage, (side, width, blocks) in enumerate([(56, 96, 2), (28, 192, 2), (14, 384, 6), (7, 768, 2)]):
        tokens = side * side
        windows = tokens // 49
        if stage:
            # Four neighbours of half the width become one token of the width.
            macs[f"layers.{stage}.downsample.reduction"] = tokens * (4 * width // 2) * width
        for block in range(blocks):
            path = f"layers.{stage}.blocks.{block}"
            macs |= {
                f"{path}.attn.qkv": tokens * width * 3 * width,
                f"{path}.attn.qk": windows * 49 * 49 * width,
                f"{path}.attn.av": windows * 49 * 49 * width,
                f"{path}.attn.proj": tokens * width * width,
                f"{path}.mlp.fc1": tokens * width * 4 * width,
                f"{path}.mlp.fc2": tokens * 4 * width * width,
            }
    return macs | {"head.fc": 768 * 1000}


def macs_by_site(model: TracedModel) -> dict[str, int]:
    return {site.name: site.macs for site in model.sites if site.macs}


def uniform_recipe(model: TracedModel, weight_bits: int, activation_bits: int) -> dict[str, SiteConfig]:
    recipe: dict[str, SiteConfig] = {}
    for site, operand in model.operands():
        bits = weight_bits if operand.is_weight else activation_bits
        recipe.setdefault(site.name, {})[operand.name] = OperandConfig(scheme="uniform", bits=bits)
    return recipe


def test_macs_of_deit_tiny() -> None:
    assert macs_by_site(deit_tiny()) == deit_macs(DEIT_WIDTHS["tiny"])
    assert deit_tiny().uncounted == ()


@pytest.mark.slow
def test_macs_of_swin_tiny() -> None:
    model = traced("swin_tiny_patch4_window7_224")
    assert macs_by_site(model) == swin_tiny_macs()
    assert model.uncounted == ()
    assert model.macs == 4_490_566_656


def test_totals() -> None:
    totals = {size: sum(deit_macs(width).values()) for size, width in DEIT_WIDTHS.items()}
    assert totals == {"tiny": 1_253_683_200, "small": 4_598_882_304, "base": 17_563_828_224}
    assert sum(swin_tiny_macs().values()) == 4_490_566_656
    assert deit_tiny().macs == totals["tiny"]


def test_attention_products_are_14_percent_of_deit_tiny() -> None:
    attention = 12 * 2 * 197 * 197 * 192
    assert attention == sum(m for name, m in macs_by_site(deit_tiny()).items() if name.endswith((".qk", ".av")))
    assert round(100 * attention / 1_253_683_200) == 14
    assert attention / 1_253_683_200 == pytest.approx(0.1426, abs=1e-4)


@pytest.mark.parametrize(("weight_bits", "activation_bits"), [(4, 4), (8, 8), (8, 4), (3, 6)])
def test_uniform_costs_of_deit_tiny(weight_bits: int, activation_bits: int) -> None:
    """A weight layer multiplies weights and activations, an attention product activations and activations."""
    macs = deit_macs(DEIT_WIDTHS["tiny"])
    attention = sum(m for name, m in macs.items() if name.endswith((".qk", ".av")))
    weights = sum(macs.values()) - attention
    weight_layers = weights * weight_bits * activation_bits
    expected = weight_layers + attention * activation_bits * activation_bits

    model = deit_tiny()
    assert uniform_bops(model.sites, weight_bits, activation_bits) == expected
    cost = model_cost(model.sites, uniform_recipe(model, weight_bits, activation_bits))
    assert (cost.bops, cost.group_bops, cost.weight_layers_only_bops) == (expected, 0, weight_layers)


def test_uniform_totals_of_deit_tiny() -> None:
    sites = deit_tiny().sites
    assert uniform_bops(sites, 4, 4) == 16 * 1_253_683_200 == 20_058_931_200
    assert uniform_bops(sites, 8, 8) == 64 * 1_253_683_200 == 80_235_724_800
    assert model_cost(sites, {}).bops == 32 * 32 * 1_253_683_200


@pytest.mark.slow
@pytest.mark.parametrize("bits", [4, 8])
def test_uniform_totals_of_swin_tiny(bits: int) -> None:
    model = traced("swin_tiny_patch4_window7_224")
    assert uniform_bops(model.sites, bits, bits) == bits * bits * 4_490_566_656
    assert model_cost(model.sites, uniform_recipe(model, bits, bits)).bops == bits * bits * 4_490_566_656


def test_weight_bytes_of_deit_tiny() -> None:
    """Matrices only: biases, norms, class token and positions are not weights of a product.

    Each of the fifty has a scale of 32 bits and a zero point of 4 or 8, five bytes.
    """
    block = 192 * 3 * 192 + 192 * 192 + 2 * 192 * 4 * 192
    elements = 192 * 16 * 16 * 3 + 12 * block + 192 * 1000
    model = deit_tiny()
    assert model_cost(model.sites, {}).weight_bytes == 4 * elements
    assert model_cost(model.sites, uniform_recipe(model, 8, 4)).weight_bytes == elements + 50 * 5
    assert model_cost(model.sites, uniform_recipe(model, 4, 8)).weight_bytes == elements // 2 + 50 * 5
