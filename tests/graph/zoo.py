"""Small, randomly initialised versions of many architectures, each traced once."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from unittest import mock

import pytest
import timm
import torch
import torchvision
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from autoq.graph.insert import QuantizedModel
from autoq.graph.trace import TracedModel, trace

_VIT = {"img_size": 32, "patch_size": 8, "embed_dim": 48, "depth": 2, "num_heads": 3}
_SWIN = {"embed_dim": 24, "depths": (2, 2), "num_heads": (2, 4)}
_ONE_EACH = (1, 1, 1, 1)
_YOLOS = {
    "hidden_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 96,
    "num_labels": 5,
    "image_size": [64, 96],
    "patch_size": 16,
    "num_detection_tokens": 10,
}
_TORCHVISION_VIT = {
    "image_size": 32,
    "patch_size": 8,
    "num_layers": 2,
    "num_heads": 2,
    "hidden_dim": 32,
    "mlp_dim": 64,
    "num_classes": 5,
}
_TORCHVISION_SWIN = {
    "patch_size": [4, 4],
    "embed_dim": 16,
    "depths": [2, 1],
    "num_heads": [1, 2],
    "window_size": [4, 4],
    "num_classes": 5,
}
_TRANSFORMERS_VIT = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "mlp_ratio": 2,
    "image_size": 32,
    "patch_size": 8,
    "num_labels": 5,
}
_TRANSFORMERS_SWIN = {
    "image_size": 32,
    "patch_size": 2,
    "embed_dim": 16,
    "depths": [2, 1],
    "num_heads": [1, 2],
    "window_size": 4,
    "num_labels": 5,
}
_SEGFORMER = {
    "num_encoder_blocks": 2,
    "depths": [1, 1],
    "sr_ratios": [2, 1],
    "hidden_sizes": [16, 32],
    "strides": [4, 2],
    "patch_sizes": [7, 3],
    "num_attention_heads": [1, 2],
    "mlp_ratios": [2, 2],
    "decoder_hidden_size": 32,
    "num_labels": 5,
}


def _timm(architecture: str, **options: Any) -> nn.Module:
    timm.layers.set_fused_attn(False)
    return timm.create_model(architecture, pretrained=False, **options)


def _torchvision(architecture: str, **options: Any) -> nn.Module:
    return getattr(torchvision.models, architecture)(**options)


def _transformers(architecture: str, **options: Any) -> nn.Module:
    """``ViTForImageClassification`` made from a ``ViTConfig``."""
    transformers = pytest.importorskip("transformers")
    config = getattr(transformers, f"{architecture.partition('For')[0]}Config")
    return getattr(transformers, architecture)(config(**{"attn_implementation": "eager"} | options))


class GridDetector(nn.Module):
    """What detectors do: grids made in place, sines in double precision, levels that nobody reads, a counter."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 4, stride=4)
        self.levels = nn.ModuleList(nn.Conv2d(16, 16, 3, stride=2, padding=1) for _ in range(3))
        self.blocks = nn.ModuleList(Block(16, 2, mlp_ratio=2) for _ in range(2))
        self.classes, self.boxes = nn.Linear(16, 5), nn.Linear(16, 4)
        self.register_buffer("frequencies", torch.linspace(1, 9, 4, dtype=torch.float64))
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: Tensor) -> dict[str, Any]:
        self.calls += 1
        x = self.stem(x)
        pyramid = [level(x) for level in self.levels]  # the first is read
        y = pyramid[0].flatten(2).transpose(1, 2).contiguous()
        rows, columns = torch.meshgrid(torch.arange(4.0), torch.arange(6.0), indexing="ij")
        grid = torch.stack([rows, columns], -1).reshape(24, 2)
        grid[:, 0] /= 4
        grid[..., 1].add_(0.5).div_(6)
        angles = (grid[:, :, None].double() * self.frequencies).flatten(1)
        y = y + torch.cat([angles.sin(), angles.cos()], -1).to(y.dtype)
        for block in self.blocks:
            y = block(y)
        boxes = self.boxes(y)
        boxes[..., :2] += grid
        return {"loss": None, "logits": self.classes(y), "boxes": boxes.clamp_(-5, 5), "features": [y.mean(1)]}


def _grid_detector(_: str) -> nn.Module:
    timm.layers.set_fused_attn(False)
    return GridDetector()


@dataclass(frozen=True)
class Entry:
    """How to make one model.

    Attributes:
        architecture: name in its library.
        size: height and width of its images.
        options: arguments of the model.
        exact: whether the traced model repeats the eager one bit for bit; fused attention, written out, rounds to it.
        make: builds the model from architecture and options.
        unread: modules whose result nobody reads.
        token_major: whether attention is ``nn.MultiheadAttention``, which works on (tokens, images, channels) and in
            eager mode runs as one fused operator.
        single: whether a single tensor is alive between stages; pyramids, grids, shortcuts around several blocks and
            class tokens beside image tokens keep more.
    """

    architecture: str
    size: tuple[int, int]
    options: Mapping[str, Any] = field(default_factory=dict)
    exact: bool = True
    make: Callable[..., nn.Module] = _timm
    unread: tuple[str, ...] = ()
    single: bool = True
    token_major: bool = False


ZOO = {
    "deit": Entry("deit_tiny_patch16_224", (32, 32), _VIT),
    "deit3": Entry("deit3_small_patch16_224", (32, 32), _VIT),
    "vit": Entry("vit_tiny_patch16_224", (32, 32), _VIT),
    "beit": Entry("beit_base_patch16_224", (32, 32), _VIT),
    "eva02": Entry("eva02_tiny_patch14_224", (28, 28), _VIT | {"img_size": 28, "patch_size": 14}),
    "cait": Entry("cait_xxs24_224", (32, 32), _VIT, single=False),
    "xcit": Entry("xcit_nano_12_p16_224", (64, 64), _VIT | {"img_size": 64, "patch_size": 16}),
    "swin": Entry("swin_tiny_patch4_window7_224", (56, 56), _SWIN | {"img_size": 56, "window_size": 7}),
    "swinv2": Entry("swinv2_tiny_window8_256", (64, 64), _SWIN | {"img_size": 64, "window_size": 8}),
    "pvt_v2": Entry("pvt_v2_b0", (64, 64), {"depths": _ONE_EACH}),
    "mobilevit": Entry("mobilevit_xxs", (128, 128), single=False),
    "maxvit": Entry(
        "maxvit_rmlp_pico_rw_256", (64, 64), {"img_size": 64, "embed_dim": (32, 32, 64, 64), "depths": _ONE_EACH}
    ),
    "levit": Entry(
        "levit_128s",
        (128, 128),
        {"img_size": 128, "embed_dim": (32, 48, 64), "num_heads": (2, 3, 4), "key_dim": 8, "depth": (1, 1, 1)},
    ),
    "tiny_vit": Entry(
        "tiny_vit_5m_224", (112, 112), {"embed_dims": (16, 32, 48, 64), "depths": _ONE_EACH, "num_heads": (1, 2, 3, 4)}
    ),
    "convnext": Entry("convnext_atto", (64, 64), {"depths": _ONE_EACH, "dims": (8, 16, 24, 32)}),
    "resnet18": Entry("resnet18", (64, 64)),
    "yolos_eager": Entry("YolosForObjectDetection", (64, 96), _YOLOS, make=_transformers),
    "yolos_sdpa": Entry(
        "YolosForObjectDetection", (64, 96), _YOLOS | {"attn_implementation": "sdpa"}, exact=False, make=_transformers
    ),
    "torchvision_vit": Entry(
        "VisionTransformer", (32, 32), _TORCHVISION_VIT, exact=False, make=_torchvision, token_major=True
    ),
    "torchvision_swin": Entry("SwinTransformer", (32, 32), _TORCHVISION_SWIN, make=_torchvision),
    "transformers_vit": Entry("ViTForImageClassification", (32, 32), _TRANSFORMERS_VIT, make=_transformers),
    "transformers_dinov2": Entry("Dinov2ForImageClassification", (40, 48), _TRANSFORMERS_VIT, make=_transformers),
    "transformers_swin": Entry("SwinForImageClassification", (32, 32), _TRANSFORMERS_SWIN, make=_transformers),
    "segformer": Entry("SegformerForSemanticSegmentation", (32, 64), _SEGFORMER, make=_transformers, single=False),
    "grid_detector": Entry(
        "GridDetector", (32, 48), make=_grid_detector, unread=("levels.1", "levels.2"), single=False
    ),
}


@dataclass(frozen=True)
class Example:
    """A model of the zoo in evaluation mode, and what autoq makes of it."""

    name: str
    entry: Entry
    model: nn.Module
    traced: TracedModel
    program: torch.export.ExportedProgram

    @functools.cached_property
    def quantized(self) -> QuantizedModel:
        """A quantized copy without quantizers."""
        return QuantizedModel(self.traced)

    def images(self, count: int, seed: int = 0) -> Tensor:
        """Random images."""
        return images(self.entry, count, seed)


def images(entry: Entry, count: int, seed: int = 0) -> Tensor:
    """Random images of the size that a model takes."""
    return torch.randn(count, 3, *entry.size, generator=torch.Generator().manual_seed(seed))


def build(name: str) -> nn.Module:
    """A model whose every parameter is random, the same each time: no branch is scaled down to nothing."""
    entry = ZOO[name]
    torch.manual_seed(0)
    model = entry.make(entry.architecture, **entry.options).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.05)
        for buffer_name, buffer in model.named_buffers():
            if buffer_name.endswith(("running_mean", "running_var")):
                buffer.add_(torch.rand_like(buffer))
    return model


@functools.cache
def example(name: str) -> Example:
    """The model called ``name``, traced; kept for all tests of a process."""
    model = build(name)
    traced, program = trace_and_keep(model, images(ZOO[name], 2))
    return Example(name, ZOO[name], model, traced, program)


@functools.cache
def in_double(name: str) -> tuple[TracedModel, Tensor]:
    """The model called ``name`` in double precision, traced, and two images; kept for all tests of a process."""
    batch = images(ZOO[name], 2).double()
    return trace(build(name).double(), batch), batch


def trace_and_keep(model: nn.Module, batch: Tensor) -> tuple[TracedModel, torch.export.ExportedProgram]:
    """Trace a model and keep the program that torch.export made, which autoq leaves as it is."""
    kept: list[torch.export.ExportedProgram] = []
    export = torch.export.export

    def keep(*args: Any, **kwargs: Any) -> torch.export.ExportedProgram:
        kept.append(export(*args, **kwargs))
        return kept[0]

    with mock.patch.object(torch.export, "export", keep):
        return trace(model, batch), kept[0]
