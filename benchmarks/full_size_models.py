"""Detectors and segmenters at full size, with random weights: what is traced, what it costs, whether it is the model.

    python -m benchmarks.full_size_models [NAME ...]

Prints a row of the table in docs/models.md for each model: its sites that multiply, multiply-accumulates of an image,
stages, seconds of processor time to trace it (which runs it on three images), and the largest difference of any output
from the eager module's on three other images.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import timm
import torch
import transformers
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from autoq.graph.insert import QuantizedModel
from autoq.graph.trace import trace
from autoq.models.fpn_detector import FpnDetector

BATCH = 3
_RESNET_STAGES = ("stage2", "stage3", "stage4")


def deformable_detr() -> nn.Module:
    """Deformable DETR on ResNet-50 (Zhu et al., ICLR 2021): four scales, 300 queries, 91 classes."""
    backbone = transformers.ResNetConfig(out_features=list(_RESNET_STAGES))
    config = transformers.DeformableDetrConfig(
        use_timm_backbone=False, use_pretrained_backbone=False, backbone=None, backbone_config=backbone, num_labels=91
    )
    return _eager(transformers.DeformableDetrForObjectDetection, config)


def mask2former() -> nn.Module:
    """Mask2Former on Swin-T (Cheng et al., CVPR 2022), as for the 150 classes of ADE20K."""
    backbone = transformers.SwinConfig(
        image_size=512, depths=[2, 2, 6, 2], out_features=["stage1", "stage2", "stage3", "stage4"]
    )
    config = transformers.Mask2FormerConfig(backbone_config=backbone, num_labels=150)
    return _eager(transformers.Mask2FormerForUniversalSegmentation, config)


def swin_fpn_fcos() -> nn.Module:
    """FCOS (Tian et al., ICCV 2019) on Swin-T with a feature pyramid: four convolutions a tower, 80 classes."""
    size = (800, 1280)
    backbone = timm.create_model("swin_tiny_patch4_window7_224", pretrained=False, features_only=True, img_size=size)
    return FpnDetector(backbone, num_classes=80, image_size=size, prototypes=0, tower_depth=4)


def rt_detr() -> nn.Module:
    """RT-DETR on ResNet-50 (Zhao et al., CVPR 2024): 80 classes."""
    backbone = transformers.RTDetrResNetConfig(out_features=list(_RESNET_STAGES))
    config = transformers.RTDetrConfig(backbone_config=backbone, num_labels=80)
    return _eager(transformers.RTDetrForObjectDetection, config)


def d_fine() -> nn.Module:
    """D-FINE-L (Peng et al., ICLR 2025): 80 classes."""
    return _eager(transformers.DFineForObjectDetection, transformers.DFineConfig(num_labels=80))


def _eager(kind: Any, config: Any) -> nn.Module:
    config._attn_implementation = "eager"
    module: nn.Module = kind(config)
    return module


MODELS: dict[str, tuple[str, Callable[[], nn.Module], tuple[int, int]]] = {
    "deformable-detr": ("Deformable DETR-R50", deformable_detr, (800, 1066)),
    "mask2former": ("Mask2Former Swin-T", mask2former, (512, 512)),
    "rt-detr": ("RT-DETR-R50", rt_detr, (640, 640)),
    "d-fine": ("D-FINE-L", d_fine, (640, 640)),
    "swin-fpn-fcos": ("Swin-T FPN FCOS", swin_fpn_fcos, (800, 1280)),
}


def main() -> None:
    """Print a row for each model that is named."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=list(MODELS), metavar="NAME", help=", ".join(MODELS))
    print("| model | input | sites that multiply | GMACs | stages | seconds | difference |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for name in parser.parse_args().names:
        title, build, size = MODELS[name]
        print(f"| {title} | {size[0]}×{size[1]} | {row(build, size)} |", flush=True)


@torch.no_grad()
def row(build: Callable[[], nn.Module], size: tuple[int, int]) -> str:
    """Build, trace and compare a model."""
    torch.manual_seed(0)
    module = build().eval()
    started = time.process_time()
    traced = trace(module, torch.zeros(2, 3, *size))
    seconds = time.process_time() - started
    model = QuantizedModel(traced)
    images = torch.randn(BATCH, 3, *size)
    found, expected = _tensors(model.run(images)), _tensors(module(images))
    difference = max(float((a - b).abs().max()) for a, b in zip(found, expected, strict=True))
    sites = sum(site.macs > 0 for site in traced.sites)
    for uncounted in traced.uncounted:
        print(f"not counted: {uncounted}", flush=True)
    return f"{sites} | {traced.macs / 1e9:.1f} | {len(model.stages)} | {seconds:.0f} | {difference:.3g}"


def _tensors(outputs: object) -> list[Tensor]:
    return [leaf for leaf in pytree.tree_leaves(outputs) if isinstance(leaf, Tensor)]


if __name__ == "__main__":
    main()
