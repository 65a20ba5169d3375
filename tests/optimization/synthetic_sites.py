"""Sites as the graph finds them, without a graph: a ViT, a Swin-like and a convolutional model, all small."""

from __future__ import annotations

from autoq.graph.sites import GroupGeometry, Operand, Producer, Site
from autoq.quantizers.granularity import OperandLayout


def _weight(*shape: int) -> Operand:
    return Operand(
        "weight",
        shape,
        "parameter",
        OperandLayout(len(shape), -len(shape), None, 1 - len(shape), None, 0, 1 - len(shape)),
    )


def linear(name: str, tokens: int, inputs: int, outputs: int, producer: Producer = "layer_norm") -> Site:
    geometry = GroupGeometry(1, tokens, inputs, outputs) if tokens > 1 else None
    layout = OperandLayout(3, -1, group_axis=-1, instance_group_axis=-1 if geometry else None, summed_axis=-1)
    operand = Operand("input", (1, tokens, inputs), producer, layout, geometry)
    return Site(name, "linear", tokens * inputs * outputs, (operand, _weight(outputs, inputs)))


def conv(name: str, inputs: int, outputs: int, kernel: int, size: int, producer: Producer = "other") -> Site:
    geometry = GroupGeometry(1, size * size, inputs * kernel**2, outputs)
    layout = OperandLayout(4, -3, group_axis=-3, instance_group_axis=-3, summed_axis=-3)
    operand = Operand("input", (1, inputs, size * kernel, size * kernel), producer, layout, geometry)
    return Site(
        name, "conv2d", size**2 * inputs * outputs * kernel**2, (operand, _weight(outputs, inputs, kernel, kernel))
    )


def product(name: str, left: tuple[int, ...], right: tuple[int, ...], producer: Producer = "other") -> Site:
    rows = producer == "softmax"
    head_axis = -3 if len(left) == 4 else None
    geometry = GroupGeometry(left[0] * left[1], left[-1], left[-2], right[-1]) if rows else None
    lhs = Operand(
        "lhs", left, producer, OperandLayout(4, -1, head_axis, -1, -2 if rows else None, left[0], -1), geometry
    )
    rhs = Operand("rhs", right, "other", OperandLayout(4, -1, head_axis, -2, None, right[0], -2))
    return Site(name, "matmul", left[0] * left[1] * left[2] * left[3] * right[3], (lhs, rhs))


def norm(name: str, tokens: int, channels: int) -> Site:
    return Site(name, "layer_norm", 0, (Operand("input", (1, tokens, channels), "other", OperandLayout(3, -1)),))


def _block(prefix: str, tokens: int, width: int, heads: int, windows: int = 1) -> list[Site]:
    depth, length = width // heads, tokens // windows
    weights = Operand("input", (windows, heads, length, length), "other", OperandLayout(4, -1))
    return [
        norm(f"{prefix}.norm1", tokens, width),
        linear(f"{prefix}.attn.qkv", tokens, width, 3 * width),
        product(f"{prefix}.attn.qk", (windows, heads, length, depth), (windows, heads, depth, length)),
        Site(f"{prefix}.attn.softmax", "softmax", 0, (weights,)),
        product(f"{prefix}.attn.av", (windows, heads, length, length), (windows, heads, length, depth), "softmax"),
        linear(f"{prefix}.attn.proj", tokens, width, width, "other"),
        norm(f"{prefix}.norm2", tokens, width),
        linear(f"{prefix}.mlp.fc1", tokens, width, 4 * width),
        linear(f"{prefix}.mlp.fc2", tokens, 4 * width, width, "gelu"),
    ]


def vit() -> list[Site]:
    blocks = [site for block in range(2) for site in _block(f"blocks.{block}", 17, 24, 3)]
    return [conv("patch_embed.proj", 3, 24, 4, 4), *blocks, norm("norm", 17, 24), linear("head", 1, 24, 10)]


def swin() -> list[Site]:
    first = [site for block in range(2) for site in _block(f"layers.0.blocks.{block}", 64, 24, 3, windows=4)]
    last = _block("layers.1.blocks.1", 16, 48, 6)
    reduction = linear("layers.1.downsample.reduction", 16, 96, 48)
    return [conv("patch_embed.proj", 3, 24, 4, 8), *first, reduction, *last, linear("head.fc", 1, 48, 10, "other")]


def convolutional() -> list[Site]:
    body = [conv(f"stages.0.blocks.{block}.conv", 8, 8, 3, 8, "relu") for block in range(3)]
    return [conv("stem.0", 3, 8, 4, 8), *body, linear("head.fc", 1, 8, 10, "other")]


MODELS = {"vit": vit, "swin": swin, "convolutional": convolutional}
