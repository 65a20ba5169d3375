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
from torch import Tensor, nn

from autoq.graph.insert import QuantizedModel
from autoq.graph.trace import TracedModel, trace

_VIT = {"img_size": 32, "patch_size": 8, "embed_dim": 48, "depth": 2, "num_heads": 3}
_SWIN = {"embed_dim": 24, "depths": (2, 2), "num_heads": (2, 4)}
_ONE_EACH = (1, 1, 1, 1)


@dataclass(frozen=True)
class Entry:
    """How to make one model.

    Attributes:
        architecture: name in timm, or ``yolos``.
        size: height and width of its images.
        options: arguments of the model.
        exact: whether the traced model repeats the eager one bit for bit; fused attention, written out, rounds to it.
    """

    architecture: str
    size: tuple[int, int]
    options: Mapping[str, Any] = field(default_factory=dict)
    exact: bool = True


ZOO = {
    "deit": Entry("deit_tiny_patch16_224", (32, 32), _VIT),
    "deit3": Entry("deit3_small_patch16_224", (32, 32), _VIT),
    "vit": Entry("vit_tiny_patch16_224", (32, 32), _VIT),
    "beit": Entry("beit_base_patch16_224", (32, 32), _VIT),
    "eva02": Entry("eva02_tiny_patch14_224", (28, 28), _VIT | {"img_size": 28, "patch_size": 14}),
    "cait": Entry("cait_xxs24_224", (32, 32), _VIT),
    "xcit": Entry("xcit_nano_12_p16_224", (64, 64), _VIT | {"img_size": 64, "patch_size": 16}),
    "swin": Entry("swin_tiny_patch4_window7_224", (56, 56), _SWIN | {"img_size": 56, "window_size": 7}),
    "swinv2": Entry("swinv2_tiny_window8_256", (64, 64), _SWIN | {"img_size": 64, "window_size": 8}),
    "pvt_v2": Entry("pvt_v2_b0", (64, 64), {"depths": _ONE_EACH}),
    "mobilevit": Entry("mobilevit_xxs", (128, 128)),
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
    "yolos_eager": Entry("yolos", (64, 96), {"attn_implementation": "eager"}),
    "yolos_sdpa": Entry("yolos", (64, 96), {"attn_implementation": "sdpa"}, exact=False),
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
    make: Callable[..., nn.Module] = _yolos if entry.architecture == "yolos" else _timm
    model = make(entry.architecture, **entry.options).eval()
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


def trace_and_keep(model: nn.Module, batch: Tensor) -> tuple[TracedModel, torch.export.ExportedProgram]:
    """Trace a model and keep the program that torch.export made, which autoq leaves as it is."""
    kept: list[torch.export.ExportedProgram] = []
    export = torch.export.export

    def keep(*args: Any, **kwargs: Any) -> torch.export.ExportedProgram:
        kept.append(export(*args, **kwargs))
        return kept[0]

    with mock.patch.object(torch.export, "export", keep):
        return trace(model, batch), kept[0]


def _timm(architecture: str, **options: Any) -> nn.Module:
    timm.layers.set_fused_attn(False)
    return timm.create_model(architecture, pretrained=False, **options)


def _yolos(_: str, **options: Any) -> nn.Module:
    transformers = pytest.importorskip("transformers")
    config = transformers.YolosConfig(
        hidden_size=48,
        num_hidden_layers=2,
        num_attention_heads=3,
        intermediate_size=96,
        image_size=[64, 96],
        patch_size=16,
        num_detection_tokens=10,
        num_labels=5,
        **options,
    )
    return transformers.YolosForObjectDetection(config)
