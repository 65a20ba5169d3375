"""Rotations folded into weights: full precision stays what it was, on many architectures."""

from __future__ import annotations

from typing import Any

import pytest
import timm
import torch
from torch import nn

from autoq.calibration import CalibrationSettings
from autoq.calibration.transforms.reparameterization import observe_factors, reparameterize, rewritable_norms
from autoq.calibration.transforms.rotation.find import find_spaces
from autoq.calibration.transforms.rotation.rotate import rotate
from autoq.errors import CalibrationError
from autoq.graph.insert import QuantizedModel
from autoq.graph.trace import TracedModel, trace
from tests.calibration.transforms.rotation.models import (
    ALL,
    AV,
    QK,
    STREAM,
    Encoder,
    assert_exact,
    assert_rotatable,
    outputs,
    traced,
)
from tests.graph.zoo import in_double


def heads(*prefixes: str) -> tuple[str, ...]:
    return tuple(f"{prefix}.{product}" for prefix in prefixes for product in ("qk", "av"))


def blocks(prefix: str, count: int, module: str = "attn") -> tuple[str, ...]:
    return heads(*(f"{prefix}{index}.{module}" for index in range(count)))


SWIN = heads(*(f"layers.{stage}.blocks.{block}.attn" for stage in range(2) for block in range(2)))
SPACES = {
    "vit": ("patch_embed.proj", *blocks("blocks.", 2)),
    "deit3": ("patch_embed.proj", *blocks("blocks.", 2)),
    "beit": ("patch_embed.proj", *blocks("blocks.", 2)),
    "eva02": ("blocks.0.attn.av", "blocks.1.attn.av"),
    "cait": ("patch_embed.proj", *blocks("blocks.", 2), *blocks("blocks_token_only.", 2)),
    "swin": ("layers.1.downsample.reduction", *SWIN),
    "swinv2": SWIN,
    "pvt_v2": (*(f"stages.{stage}.blocks.0.attn.sr" for stage in range(3)), *blocks("stages.", 4, "blocks.0.attn")),
    "xcit": blocks("cls_attn_blocks.", 2),
    "torchvision_vit": ("conv_proj", *blocks("encoder.layers.encoder_layer_", 2, "self_attention")),
    "torchvision_swin": ("features.2.reduction", *heads("features.1.0.attn", "features.1.1.attn", "features.3.0.attn")),
    "transformers_vit": ("vit.embeddings.patch_embeddings.projection", *blocks("vit.layers.", 2, "attention")),
    "transformers_dinov2": (
        "dinov2.embeddings.patch_embeddings.projection",
        *blocks("dinov2.encoder.layer.", 2, "attention"),
    ),
    "convnext": (),
    "resnet18": (),
}
QUICK = {"vit", "resnet18", "transformers_dinov2"}


@pytest.mark.parametrize("name", [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in SPACES])
def test_architectures(name: str) -> None:
    model, x = in_double(name)
    assert_rotatable(model, SPACES[name], x)


@pytest.mark.parametrize(
    ("architecture", "options", "size"),
    [
        ("deit_tiny_distilled_patch16_224", {"img_size": 32, "patch_size": 8}, 32),
        ("vit_small_patch14_reg4_dinov2", {"img_size": 28, "init_values": 0.3, "num_classes": 5}, 28),
    ],
)
def test_further_tokens(architecture: str, options: dict[str, Any], size: int) -> None:
    timm.layers.set_fused_attn(False)
    torch.manual_seed(0)
    module = timm.create_model(architecture, embed_dim=48, depth=1, num_heads=3, **options).double().eval()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.05)
    x = torch.randn(2, 3, size, size, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert_rotatable(trace(module, x), ("patch_embed.proj", *blocks("blocks.", 1)), x)


def test_layer_norms_keep_neither_scale_nor_shift() -> None:
    model = traced(Encoder())
    rotated = rotate(model, {STREAM: 0})
    nodes = rotated.graph_module.graph.nodes
    norms = [node for node in nodes if node.op == "call_function" and "layer_norm" in node.name]
    assert len(norms) == 2
    for node in norms:
        scale, shift = (getattr(rotated.graph_module, str(node.args[index].target)) for index in (2, 3))
        assert torch.equal(scale, torch.ones_like(scale))
        assert torch.equal(shift, torch.zeros_like(shift))
    # The multiplication by the LayerScale is gone; the one of the scores is left.
    products = [sum("mul" in node.name for node in m.graph_module.graph.nodes) for m in (model, rotated)]
    assert products[1] == products[0] - 1


def test_nothing_rotated_is_a_copy() -> None:
    model = traced(Encoder())
    same = rotate(model, {})
    assert same.graph_module is not model.graph_module
    assert torch.equal(outputs(same)[0], outputs(model)[0])


def test_a_rotated_model_can_be_rotated_again() -> None:
    model = traced(Encoder())
    once = rotate(model, {STREAM: 0, QK: 1})
    assert_exact(rotate(once, dict.fromkeys(ALL, 2)), model)


def test_seeds_make_a_difference_and_the_same_seed_none() -> None:
    model = traced(Encoder())
    weights = [rotate(model, {AV: seed}).weight("proj") for seed in (1, 1, 2)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.allclose(weights[0], weights[2])


def test_rotated_layer_norms_can_be_reparameterized() -> None:
    model, case = in_double("vit")
    rotated = rotate(model, dict.fromkeys(SPACES["vit"], 3))
    norms = dict.fromkeys(rewritable_norms(rotated), 4)
    assert norms.keys() == dict.fromkeys(rewritable_norms(model)).keys()
    factors = observe_factors(QuantizedModel(rotated), [case], norms, CalibrationSettings())
    plain = observe_factors(QuantizedModel(model), [case], norms, CalibrationSettings())
    assert not torch.allclose(factors["blocks.0.norm1"].ratio, plain["blocks.0.norm1"].ratio)
    for one, other in zip(outputs(reparameterize(rotated, factors), case), outputs(model, case), strict=True):
        assert (one - other).abs().max() < 1e-5 * other.abs().max()  # factors are of single precision


def test_what_cannot_be_rotated_is_refused() -> None:
    model = traced(Encoder(joined=torch.relu))
    with pytest.raises(CalibrationError, match=r"^the model has no channels 'embd' to rotate. Did you mean 'embed'\?$"):
        rotate(model, {"embd": 0})
    with pytest.raises(CalibrationError, match=r"^'av' cannot be rotated: its operands do not .*; leave it out$"):
        rotate(model, {QK: 0, AV: 0})
    with pytest.raises(CalibrationError, match=r"^'qkv' cannot be rotated: 'chunk' takes its channels as they are"):
        rotate(model, {"qkv": 0})


def test_shared_layers_are_rotated_apart() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.layer, self.head = nn.Linear(5, 6), nn.Linear(6, 6), nn.Linear(6, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(self.layer(self.layer(self.embed(x)).relu()))

    model = traced(Twice())
    assert tuple(find_spaces(model).rotatable) == ("embed", "layer@2")
    rotated = rotate(model, {"embed": 0})
    assert torch.equal(rotated.weight("layer@2"), model.weight("layer@2"))
    assert_rotatable(model, ("embed", "layer@2"))


def test_types_and_shared_parameters() -> None:
    module = Encoder().to(torch.bfloat16).eval()
    x = torch.randn(2, 8, 5, dtype=torch.bfloat16)
    model = trace(module, x)
    rotated: TracedModel = rotate(model, {STREAM: 0, QK: 0})
    assert {parameter.dtype for parameter in rotated.graph_module.parameters()} == {torch.bfloat16}
    values = rotate(model, {AV: 0}).graph_module
    assert values.get_parameter("embed.weight") is model.graph_module.get_parameter("embed.weight")
    torch.testing.assert_close(rotated.graph_module(x), model.graph_module(x), rtol=0.1, atol=0.1)
