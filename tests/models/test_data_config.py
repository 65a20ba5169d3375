"""Data configurations are tried when a model is loaded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from PIL import Image

from autoq.errors import ModelError
from autoq.models import load_model, save_model
from autoq.models.data_config import check_forward, normalisation
from tests.models.folders import message_of


def edit(folder: Path, **changes: Any) -> str:
    """Change the data configuration; return the model's name."""
    path = Path(folder) / "config.json"
    document = json.loads(path.read_text())
    document["pretrained_cfg"] |= changes
    path.write_text(json.dumps(document))
    return f"local-dir:{folder}"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mean": [0.5]}, "mean in its config.json is [0.5]: give one number for each of 3 channels."),
        ({"std": [0.5, 0.5, 0.0]}, "std in its config.json is [0.5, 0.5, 0.0]: give one number above 0 for each"),
        ({"std": [0.5, 0.5, float("nan")]}, "std in its config.json"),
        ({"mean": ["a", "b", "c"]}, "mean in its config.json"),
        ({"input_size": [4, 16, 16]}, "input_size[0]=4"),
        ({"label_names": ["a", "b"]}, "the model has 5 outputs, but label_names in its config.json has 2 names"),
    ],
)
def test_what_cannot_work_is_refused_by_its_key(folder, changes: dict[str, Any], message: str) -> None:
    assert message in message_of(edit(folder, **changes))


def test_a_grey_model_that_remembers_three_means_is_averaged(tmp_path: Path) -> None:
    """As timm's pretrained configurations have it, and as folders written before have it."""
    arguments = {"img_size": 16, "patch_size": 8, "embed_dim": 16, "depth": 1, "num_heads": 1, "in_chans": 1}
    module = timm.create_model("vit_tiny_patch16_224", pretrained=False, num_classes=3, **arguments)
    save_model(module, tmp_path, model_args=arguments, data_config={"input_size": [1, 16, 16]})
    document = json.loads((tmp_path / "config.json").read_text())["pretrained_cfg"]
    assert (document["mean"], document["std"]) == ([0.5], [0.5])
    image = Image.effect_noise((16, 16), 80)
    expected = load_model(f"local-dir:{tmp_path}").transform(image)
    again = load_model(edit(tmp_path, mean=[0.4, 0.5, 0.6], std=[0.5, 0.5, 0.5])).transform(image)
    assert torch.allclose(again, expected)


def test_a_model_that_does_not_run_names_the_key() -> None:
    check_forward("m", torch.nn.Flatten(), (3, 4, 4))
    with pytest.raises(ModelError, match=r"'m' does not run on an image of shape \(3, 4, 4\), which is input_size in"):
        check_forward("m", torch.nn.Linear(5, 2), (3, 4, 4))


def test_one_number_is_for_all_channels() -> None:
    assert normalisation("m", "std", 0.5, 3) == (0.5, 0.5, 0.5)


def test_a_config_with_a_byte_order_mark(folder) -> None:
    path = Path(folder) / "config.json"
    path.write_text(path.read_text(), encoding="utf-8-sig")
    assert "begins with a byte order mark" in message_of(f"local-dir:{folder}")
    path.write_text(path.read_text(encoding="utf-8-sig"), encoding="utf-16")
    assert "is not UTF-8" in message_of(f"local-dir:{folder}")
