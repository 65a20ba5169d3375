import socket
from pathlib import Path

import pytest
import timm

from autoq.models import save_model


@pytest.fixture(autouse=True)
def no_network(monkeypatch, tmp_path):
    """Neither a server nor somebody's cache of weights."""

    def refuse(*_args, **_kwargs):
        raise OSError("no network in tests")

    monkeypatch.setattr(socket, "create_connection", refuse)
    monkeypatch.setattr("urllib.request.getproxies", dict)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))


@pytest.fixture
def folder(tmp_path) -> Path:
    """A small model in timm's hub format, with RGB input and five named classes."""
    module = timm.create_model("vit_tiny_patch16_224", img_size=16, embed_dim=24, depth=1, num_heads=2, num_classes=5)
    names = [f"class {index}" for index in range(5)]
    path = tmp_path / "model"
    save_model(module, path, data_config={"input_size": (3, 16, 16), "crop_pct": 1.0}, label_names=names)
    return path
