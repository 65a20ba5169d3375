from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image

from autoq.models import load_model
from autoq.models.detector_input import is_detector

transformers = pytest.importorskip("transformers", reason="the extra transformers is not installed")


def test_a_detector_sees_the_whole_of_every_image(tmp_path: Path) -> None:
    config = transformers.YolosConfig(
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        image_size=[32, 32],
        num_detection_tokens=2,
        num_labels=3,
    )
    transformers.YolosForObjectDetection(config).save_pretrained(tmp_path)
    size = {"shortest_edge": 32, "longest_edge": 64}
    transformers.YolosImageProcessor(size=size, image_mean=[0.5] * 3, image_std=[0.5] * 3).save_pretrained(tmp_path)
    loaded = load_model(f"hf-dir:{tmp_path}")
    assert (loaded.input_size, loaded.num_classes) == ((3, 32, 32), 3)
    assert loaded.transform is not None
    wide = Image.new("RGB", (80, 20), (0, 0, 0))
    wide.paste((255, 255, 255), (40, 0, 80, 20))
    made = loaded.transform(wide)
    assert made.shape == (3, 32, 32)
    assert torch.equal(made[:, :, :14], torch.full((3, 32, 14), -1.0))
    assert torch.equal(made[:, :, 18:], torch.full((3, 32, 14), 1.0))
    assert loaded.preprocessing is not None
    assert loaded.preprocessing["resize"] == "square"


@pytest.mark.parametrize(
    ("name", "finds_objects"),
    [
        ("DetrForObjectDetection", True),
        ("DetrForSegmentation", True),
        ("Mask2FormerForUniversalSegmentation", True),
        ("MaskFormerForInstanceSegmentation", True),
        ("SegformerForSemanticSegmentation", False),
        ("ViTForImageClassification", False),
    ],
)
def test_which_models_find_objects(name: str, finds_objects: bool) -> None:
    kind = getattr(transformers, name)
    assert is_detector(kind.__new__(kind)) == finds_objects
