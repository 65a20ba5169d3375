"""Names of sites, with what produced their operands, of a ViT and a Swin, written out."""

from __future__ import annotations

import torch.nn.functional as F  # noqa: N812 - as everybody calls it
from torch import Tensor

from tests.graph.small import Weighted, traced
from tests.graph.zoo import example


def table(name: str) -> list[tuple[str, str, str]]:
    """Per site its name, its kind, and what produced its operands."""
    return [
        (site.name, site.op, " ".join(f"{operand.name}={operand.producer}" for operand in site.operands))
        for site in example(name).traced.sites
    ]


def test_vit() -> None:
    assert table("vit") == [
        ("patch_embed.proj", "conv2d", "input=other weight=parameter"),
        ("add", "add", "lhs=other rhs=parameter"),
        ("blocks.0.norm1", "layer_norm", "input=other"),
        ("blocks.0.attn.qkv", "linear", "input=layer_norm weight=parameter"),
        ("blocks.0.attn.qk", "matmul", "lhs=other rhs=other"),
        ("blocks.0.attn.softmax", "softmax", "input=other"),
        ("blocks.0.attn.av", "matmul", "lhs=softmax rhs=other"),
        ("blocks.0.attn.proj", "linear", "input=other weight=parameter"),
        ("blocks.0.add", "add", "lhs=other rhs=other"),
        ("blocks.0.norm2", "layer_norm", "input=other"),
        ("blocks.0.mlp.fc1", "linear", "input=layer_norm weight=parameter"),
        ("blocks.0.mlp.fc2", "linear", "input=gelu weight=parameter"),
        ("blocks.0.add@2", "add", "lhs=other rhs=other"),
        ("blocks.1.norm1", "layer_norm", "input=other"),
        ("blocks.1.attn.qkv", "linear", "input=layer_norm weight=parameter"),
        ("blocks.1.attn.qk", "matmul", "lhs=other rhs=other"),
        ("blocks.1.attn.softmax", "softmax", "input=other"),
        ("blocks.1.attn.av", "matmul", "lhs=softmax rhs=other"),
        ("blocks.1.attn.proj", "linear", "input=other weight=parameter"),
        ("blocks.1.add", "add", "lhs=other rhs=other"),
        ("blocks.1.norm2", "layer_norm", "input=other"),
        ("blocks.1.mlp.fc1", "linear", "input=layer_norm weight=parameter"),
        ("blocks.1.mlp.fc2", "linear", "input=gelu weight=parameter"),
        ("blocks.1.add@2", "add", "lhs=other rhs=other"),
        ("norm", "layer_norm", "input=other"),
        ("head", "linear", "input=layer_norm weight=parameter"),
        ("output", "output", "input=other"),
    ]


def swin_block(path: str, input_producer: str = "other") -> list[tuple[str, str, str]]:
    return [
        (f"{path}.norm1", "layer_norm", f"input={input_producer}"),
        (f"{path}.attn.qkv", "linear", "input=layer_norm weight=parameter"),
        (f"{path}.attn.qk", "matmul", "lhs=other rhs=other"),
        (f"{path}.attn.softmax", "softmax", "input=other"),
        (f"{path}.attn.av", "matmul", "lhs=softmax rhs=other"),
        (f"{path}.attn.proj", "linear", "input=other weight=parameter"),
        (f"{path}.add", "add", f"lhs={input_producer} rhs=other"),
        (f"{path}.norm2", "layer_norm", "input=other"),
        (f"{path}.mlp.fc1", "linear", "input=layer_norm weight=parameter"),
        (f"{path}.mlp.fc2", "linear", "input=gelu weight=parameter"),
        (f"{path}.add@2", "add", "lhs=other rhs=other"),
    ]


def test_swin() -> None:
    """The layer norm is seen through shift, padding and window partition."""
    assert table("swin") == [
        ("patch_embed.proj", "conv2d", "input=other weight=parameter"),
        ("patch_embed.norm", "layer_norm", "input=other"),
        *swin_block("layers.0.blocks.0", input_producer="layer_norm"),
        *swin_block("layers.0.blocks.1"),
        ("layers.1.downsample.norm", "layer_norm", "input=other"),
        ("layers.1.downsample.reduction", "linear", "input=layer_norm weight=parameter"),
        *swin_block("layers.1.blocks.0"),
        *swin_block("layers.1.blocks.1"),
        ("norm", "layer_norm", "input=other"),
        ("head.fc", "linear", "input=other weight=parameter"),
        ("output", "output", "input=other"),
    ]


def test_yolos_is_named_alike_with_fused_and_eager_attention() -> None:
    names = [site.name for site in example("yolos_sdpa").traced.sites]
    layer = "vit.encoder.layer.1"
    assert [name for name in names if name.startswith(layer)] == [
        f"{layer}.layernorm_before",
        f"{layer}.attention.attention.key",
        f"{layer}.attention.attention.value",
        f"{layer}.attention.attention.query",
        f"{layer}.attention.attention.qk",
        f"{layer}.attention.attention.softmax",
        f"{layer}.attention.attention.av",
        f"{layer}.attention.output.dense",
        f"{layer}.add",
        f"{layer}.layernorm_after",
        f"{layer}.intermediate.dense",
        f"{layer}.output.dense",
        f"{layer}.output.add",
    ]
    assert names == [site.name for site in example("yolos_eager").traced.sites]


def test_a_layer_used_twice_has_two_names() -> None:
    class Twice(Weighted):
        def forward(self, x: Tensor) -> Tensor:
            return self.layer(F.relu(self.layer(x)))

    found = traced(Twice())
    assert [site.name for site in found.sites] == ["layer", "layer@2", "output"]
    assert [site.operand("input").producer for site in found.sites] == ["other", "relu", "other"]
