"""The bundled detector: a small Swin with a feature pyramid, for the drawn shapes."""

from __future__ import annotations

from pathlib import Path

import torch

from autoq.models.fpn_detector import FpnDetector
from autoq.models.loaded import LoadedModel, weights_sha256
from autoq.models.square_transform import SquareTransform
from autoq.models.timm_models import import_timm

NAME = "swin_shapes"
WEIGHTS = Path(__file__).parent / "model.safetensors"
MEAN = (0.5, 0.5, 0.5)
STD = (0.25, 0.25, 0.25)
LABEL_NAMES = ("ellipse", "rectangle", "triangle", "ring")

_SIDE = 64


def build_swin_shapes(pretrained: bool = True, seed: int = 0) -> FpnDetector:
    """Build the detector in evaluation mode, with trained weights or with random ones of this seed."""
    timm = import_timm()
    timm.layers.set_fused_attn(False)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        backbone = timm.create_model(
            "swin_tiny_patch4_window7_224",
            features_only=True,
            img_size=_SIDE,
            window_size=4,
            embed_dim=32,
            depths=(2, 2, 2),
            num_heads=(1, 2, 4),
            out_indices=(0, 1, 2),
            drop_path_rate=0.05,
        )
        detector = FpnDetector(backbone, len(LABEL_NAMES), (_SIDE, _SIDE), channels=40, prototypes=16)
    if pretrained:
        from safetensors.torch import load_file

        detector.load_state_dict(load_file(WEIGHTS))
    return detector.eval()


def load_swin_shapes(pretrained: bool = True, seed: int = 0) -> LoadedModel:
    """Load the detector, ready to be traced."""
    detector = build_swin_shapes(pretrained, seed)
    return LoadedModel(
        name=NAME,
        module=detector,
        transform=SquareTransform((_SIDE, _SIDE), MEAN, STD),
        input_size=(3, _SIDE, _SIDE),
        num_classes=len(LABEL_NAMES),
        label_names=LABEL_NAMES,
        weights_sha256=weights_sha256(detector),
    )
