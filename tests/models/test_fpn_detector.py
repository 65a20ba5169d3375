from __future__ import annotations

from typing import Any

import pytest
import timm
import torch

from autoq.models.fpn_detector import FpnDetector

SWIN = {"img_size": 64, "window_size": 4, "embed_dim": 8, "depths": (1, 1, 1), "num_heads": (1, 1, 1)}
BACKBONES: list[tuple[str, dict[str, Any]]] = [
    ("swin_tiny_patch4_window7_224", SWIN),
    ("test_resnet", {}),
]


@pytest.mark.parametrize(("name", "settings"), BACKBONES)
@pytest.mark.parametrize("prototypes", [0, 4])
def test_any_backbone_that_gives_features(name: str, settings: dict[str, Any], prototypes: int) -> None:
    backbone = timm.create_model(name, features_only=True, out_indices=(0, 1, 2), **settings)
    detector = FpnDetector(backbone, 3, (64, 64), channels=16, prototypes=prototypes).eval()
    outputs = detector(torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0)))
    locations = sum((64 // stride) ** 2 for stride in detector.strides[1:])
    assert outputs["logits"].shape == (2, locations, 3)
    assert outputs["pred_boxes"].shape == (2, locations, 4)
    assert (outputs["pred_boxes"][..., 2:] > 0).all()
    assert ("pred_masks" in outputs) == (prototypes > 0)


def test_masks_end_near_their_boxes() -> None:
    backbone = timm.create_model("swin_tiny_patch4_window7_224", features_only=True, out_indices=(0, 1, 2), **SWIN)
    detector = FpnDetector(backbone, 3, (64, 64), channels=16, prototypes=4).eval()
    box = torch.tensor([[[0.5, 0.25, 0.25, 0.25]]])
    outside = detector._distance(box)[0, 0]  # (32, 32)
    inside = outside == 0
    rows, columns = inside.any(1).nonzero().flatten(), inside.any(0).nonzero().flatten()
    assert (rows[0], rows[-1]) == (4, 11)  # 32 · (0.25 ± 0.125), a tenth wider, at the centres of pixels
    assert (columns[0], columns[-1]) == (12, 19)
    assert outside[31, 31] > 20
