"""RepQ-ViT's protocol once more, slowly, on a timm vision transformer: as its authors' code goes about it.

Written from the paper (Li et al., ICCV 2023) and what the code does: every quantizer is made when values first come by,
behind quantizers that are at work already; then LayerNorms are rescaled and the weights behind them calibrated again.
"""

from __future__ import annotations

import copy
import math

import torch
from torch import Tensor, nn
from torch.nn import functional

PERCENTILES = (0.999, 0.9999, 0.99999)


class Uniform:
    """Affine: the best of three percentiles, of all values or of each along an axis."""

    def __init__(self, bits: int, axis: int | None = None) -> None:
        self.most, self.axis = 2**bits - 1, axis
        self.scale: Tensor | None = None

    def __call__(self, x: Tensor) -> Tensor:
        if self.scale is None:
            rows = [x.flatten()] if self.axis is None else list(x.movedim(self.axis, 0).flatten(1))
            found = [self.choose(row) for row in rows]
            shape = [1] * x.ndim
            shape[self.axis or 0] = len(found)
            self.scale = torch.tensor([scale for scale, _ in found]).view(shape)
            self.zero = torch.tensor([zero for _, zero in found]).view(shape)
        return self.quantize(x, self.scale, self.zero)

    def quantize(self, x: Tensor, scale: Tensor | float, zero: Tensor | float) -> Tensor:
        return ((torch.round(x / scale) + zero).clamp(0, self.most) - zero) * scale

    def choose(self, row: Tensor) -> tuple[float, float]:
        best = (math.inf, 0.0, 0.0)
        for percentile in PERCENTILES:
            low, high = (row.double().quantile(q).float() for q in (1 - percentile, percentile))
            scale = (high - low) / self.most
            zero = torch.round(-low / scale)
            error = (row - self.quantize(row, scale, zero)).square().sum().item()
            best = min(best, (error, scale.item(), zero.item()), key=lambda each: each[0])
        return best[1:]


class LogSqrt2:
    """Base √2, at the best of three percentiles; zero below the last of 2^bits levels."""

    def __init__(self, bits: int) -> None:
        self.count = 2**bits
        self.scale: Tensor | None = None

    def __call__(self, x: Tensor) -> Tensor:
        if self.scale is None:
            tried = [x.flatten().double().quantile(percentile).float() for percentile in PERCENTILES]
            self.scale = min(tried, key=lambda scale: (x - self.quantize(x, scale)).square().sum().item())
        return self.quantize(x, self.scale)

    def quantize(self, x: Tensor, scale: Tensor) -> Tensor:
        code = torch.round(-2 * torch.log2(x / scale))
        return torch.where(code < self.count, scale * 2 ** (-code.clamp(0, self.count - 1) / 2), 0.0)


class RepqReference:
    """The model behind RepQ-ViT's quantizers."""

    def __init__(self, module: nn.Module, bits: int) -> None:
        self.model = copy.deepcopy(module).eval()
        self.bits = bits
        self.of_input: dict[nn.Module, Uniform] = {}
        self.of_weight: dict[nn.Module, Uniform] = {}
        self.of_product: dict[tuple[nn.Module, str], Uniform | LogSqrt2] = {}

    @torch.no_grad()
    def calibrate(self, images: Tensor, as_here: bool = False) -> None:
        """Calibrate as the authors' code does, or ``as_here``: zero points are codes, and whatever does not read a
        LayerNorm is calibrated behind the rescaled weights."""
        self.as_here = as_here
        self.run(images)
        for block in self.model.blocks:  # type: ignore[union-attr]
            self.rescale(block.norm1, block.attn.qkv)
            self.rescale(block.norm2, block.mlp.fc1)
        if as_here:
            rescaled = {layer for block in self.model.blocks for layer in (block.attn.qkv, block.mlp.fc1)}  # type: ignore[union-attr]
            self.of_input = {layer: own for layer, own in self.of_input.items() if layer in rescaled}
            self.of_weight, self.of_product = {}, {}
        self.run(images)

    def rescale(self, norm: nn.LayerNorm, layer: nn.Linear) -> None:
        own = self.of_input[layer]
        assert own.scale is not None
        scale, zero = own.scale.flatten(), own.zero.flatten()
        shared, shared_zero = scale.mean(), zero.mean()
        if self.as_here:
            shared_zero = shared_zero.round()
        ratio = scale / shared
        shift = -zero * scale / ratio + shared_zero * shared
        norm.weight.div_(ratio)
        norm.bias.div_(ratio).sub_(shift)
        layer.weight.mul_(ratio)
        layer.bias.add_(layer.weight @ shift)
        own.scale, own.zero = shared, shared_zero
        del self.of_weight[layer]

    @torch.no_grad()
    def run(self, images: Tensor) -> Tensor:
        model = self.model
        x = self.layer(model.patch_embed.proj, images, 8).flatten(2).transpose(1, 2)  # type: ignore[union-attr]
        x = model._pos_embed(x)  # type: ignore[operator]
        for block in model.blocks:  # type: ignore[union-attr]
            x = x + block.ls1(self.attention(block.attn, block.norm1(x)))
            hidden = block.mlp.act(self.layer(block.mlp.fc1, block.norm2(x), axis=-1))
            x = x + block.ls2(self.layer(block.mlp.fc2, hidden))
        return self.layer(model.head, model.fc_norm(model.pool(model.norm(x))))  # type: ignore[operator,arg-type]

    def attention(self, attention: nn.Module, x: Tensor) -> Tensor:
        images, tokens, channels = x.shape
        qkv = self.layer(attention.qkv, x, axis=-1).reshape(images, tokens, 3, attention.num_heads, -1)  # type: ignore[arg-type]
        query, key, value = qkv.permute(2, 0, 3, 1, 4)
        query = self.product(attention, "query", query * attention.scale)
        scores = (query @ self.product(attention, "key", key.transpose(-2, -1))).softmax(-1)
        out = self.product(attention, "map", scores) @ self.product(attention, "value", value)
        return self.layer(attention.proj, out.transpose(1, 2).reshape(images, tokens, channels))  # type: ignore[arg-type]

    def product(self, attention: nn.Module, name: str, x: Tensor) -> Tensor:
        if (attention, name) not in self.of_product:
            self.of_product[attention, name] = LogSqrt2(self.bits) if name == "map" else Uniform(self.bits)
        return self.of_product[attention, name](x)

    def layer(self, layer: nn.Module, x: Tensor, bits: int | None = None, axis: int | None = None) -> Tensor:
        if layer not in self.of_input:
            self.of_input[layer] = Uniform(bits or self.bits, axis)
        if layer not in self.of_weight:
            self.of_weight[layer] = Uniform(self.bits, 0)
        x, weight = self.of_input[layer](x), self.of_weight[layer](layer.weight)  # type: ignore[arg-type]
        if isinstance(layer, nn.Conv2d):
            return functional.conv2d(x, weight, layer.bias, layer.stride)
        return functional.linear(x, weight, layer.bias)  # type: ignore[arg-type]
