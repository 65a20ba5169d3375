"""Folders that ``autoq.load_quantized`` reads."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file

import autoq
from autoq.errors import ExportError, ModelError, RecipeError
from autoq.exporters.torch_folder import TorchExporter, load_quantized
from autoq.models.saving import save_model
from tests.api.models import IMAGES
from tests.contracts.exporters import ExporterContract
from tests.exporters.sources import source_of


class TestTorch(ExporterContract):
    exporter = TorchExporter
    is_exact = True

    def metadata(self, path: Path) -> dict[str, str]:
        return {file.name: file.read_text() for file in path.glob("*.json")}

    def test_models_without_a_name_are_refused(self, tmp_path: Path) -> None:
        source = source_of("w8a8")
        model = source.recipe.model.model_copy(update={"name": "memory:HandWritten"})
        nameless = replace(source, recipe=source.recipe.model_copy(update={"model": model}))
        with pytest.raises(ExportError, match="use format pt2"):
            self.write(nameless, self.path(tmp_path))

    def test_what_is_missing_or_another_is_told(self, tmp_path: Path) -> None:
        path = self.path(tmp_path)
        self.write(source_of("w8a8"), path)
        state = load_file(path / "quantized.safetensors")
        save_file({name: value for name, value in state.items() if "fc1" not in name}, path / "quantized.safetensors")
        with pytest.raises(RecipeError, match="does not fit its architecture"):
            load_quantized(path)
        (path / "quantized.safetensors").unlink()
        with pytest.raises(RecipeError, match=r"cannot read .*quantized\.safetensors"):
            load_quantized(path)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small ViT in timm's format, with weights of its own."""
    path = tmp_path_factory.mktemp("models") / "vit"
    with torch.random.fork_rng():
        torch.manual_seed(3)
        size = {"img_size": 16, "patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 2, "num_classes": 5}
        module = timm.create_model("vit_tiny_patch16_224", **size)
    save_model(module, path, model_args=size, data_config={"input_size": (3, 16, 16)})
    return path


def test_a_rotated_model_of_timm_comes_back_in_a_fresh_process(folder: Path, tmp_path: Path) -> None:
    result = autoq.search(f"local-dir:{folder}", IMAGES, "w4a4", trials=4, calib_images=12, baselines="uniform")
    recipe = result.recipe("best", version="searched")
    assert recipe.rotated
    report = autoq.export(recipe, tmp_path / "mine", "torch", images=IMAGES)
    assert report.agreement is not None
    assert report.agreement.mean_difference == 0.0
    expected = autoq.quantize(f"local-dir:{folder}", recipe)(IMAGES)
    torch.save((IMAGES, expected), tmp_path / "expected.pt")
    code = """
import sys, torch, autoq
images, expected = torch.load(sys.argv[2])
with torch.no_grad():
    assert torch.equal(autoq.load_quantized(sys.argv[1])(images), expected)
"""
    moved = (tmp_path / "mine").rename(tmp_path / "elsewhere")
    subprocess.run([sys.executable, "-c", code, moved, tmp_path / "expected.pt"], check=True)
    with pytest.raises(RuntimeError, match="loading state_dict"):
        timm.create_model(f"local-dir:{moved}", pretrained=True)
    with pytest.raises(ModelError, match="do not fit its architecture"):
        autoq.sites(f"local-dir:{moved}")
