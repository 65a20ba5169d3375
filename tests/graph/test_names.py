"""Names, producers and windows of a ViT and a Swin, written out."""

from __future__ import annotations

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
        ("blocks.0.norm1", "layer_norm", "input=other"),
        ("blocks.0.attn.qkv", "linear", "input=layer_norm weight=parameter"),
        ("blocks.0.attn.qk", "matmul", "lhs=other rhs=other"),
        ("blocks.0.attn.softmax", "softmax", "input=other"),
        ("blocks.0.attn.av", "matmul", "lhs=softmax rhs=other"),
        ("blocks.0.attn.proj", "linear", "input=other weight=parameter"),
        ("blocks.0.norm2", "layer_norm", "input=other"),
        ("blocks.0.mlp.fc1", "linear", "input=layer_norm weight=parameter"),
        ("blocks.0.mlp.fc2", "linear", "input=gelu weight=parameter"),
        ("blocks.1.norm1", "layer_norm", "input=other"),
        ("blocks.1.attn.qkv", "linear", "input=layer_norm weight=parameter"),
        ("blocks.1.attn.qk", "matmul", "lhs=other rhs=other"),
        ("blocks.1.attn.softmax", "softmax", "input=other"),
        ("blocks.1.attn.av", "matmul", "lhs=softmax rhs=other"),
        ("blocks.1.attn.proj", "linear", "input=other weight=parameter"),
        ("blocks.1.norm2", "layer_norm", "input=other"),
        ("blocks.1.mlp.fc1", "linear", "input=layer_norm weight=parameter"),
        ("blocks.1.mlp.fc2", "linear", "input=gelu weight=parameter"),
        ("norm", "layer_norm", "input=other"),
        ("head", "linear", "input=layer_norm weight=parameter"),
    ]


def swin_block(path: str, input_producer: str = "other") -> list[tuple[str, str, str]]:
    return [
        (f"{path}.norm1", "layer_norm", f"input={input_producer}"),
        (f"{path}.attn.qkv", "linear", "input=layer_norm weight=parameter"),
        (f"{path}.attn.qk", "matmul", "lhs=other rhs=other"),
        (f"{path}.attn.softmax", "softmax", "input=other"),
        (f"{path}.attn.av", "matmul", "lhs=softmax rhs=other"),
        (f"{path}.attn.proj", "linear", "input=other weight=parameter"),
        (f"{path}.norm2", "layer_norm", "input=other"),
        (f"{path}.mlp.fc1", "linear", "input=layer_norm weight=parameter"),
        (f"{path}.mlp.fc2", "linear", "input=gelu weight=parameter"),
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
    ]


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


def test_the_softmax_is_found_through_its_mixing_of_heads() -> None:
    """CaiT mixes heads with a linear layer between softmax and product: no softmax feeds the product directly."""
    by_name = example("cait").traced.sites_by_name
    assert by_name["blocks.0.attn.proj_w"].operand("input").producer == "softmax"
    assert by_name["blocks.0.attn.av"].operand("lhs").producer == "other"


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
        f"{layer}.layernorm_after",
        f"{layer}.intermediate.dense",
        f"{layer}.output.dense",
    ]
    assert names == [site.name for site in example("yolos_eager").traced.sites]
