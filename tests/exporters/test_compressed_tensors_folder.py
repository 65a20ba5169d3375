"""Folders of compressed-tensors."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import autoq
from autoq.exporters.compressed_tensors_folder import CompressedTensorsExporter
from tests.api.models import IMAGES
from tests.contracts.exporters import ExporterContract
from tests.exporters.sources import source_of

pytest.importorskip("compressed_tensors")


class TestCompressedTensors(ExporterContract):
    exporter = CompressedTensorsExporter
    cases = ("linear",)
    refused = ("w8a8", "w4a4", "mixed")
    blocked = ("autoq",)
    alone = """
import json, torch
from compressed_tensors.compressors import compress_module, decompress_module
from compressed_tensors.quantization import QuantizationConfig, apply_quantization_config
import torch
from safetensors.torch import load_file
from tests.api.models import HandWritten
model = HandWritten().eval()
config = QuantizationConfig.model_validate(json.load(open(path + "/config.json"))["quantization_config"])
apply_quantization_config(model, config)
for layer in model.modules():
    compress_module(layer)
model.load_state_dict(load_file(path + "/model.safetensors"))
for layer in model.modules():
    decompress_module(layer)
with torch.no_grad():
    logits = model(torch.from_numpy(images))["logits"].numpy()
"""

    def metadata(self, path: Path) -> dict[str, str]:
        return {file.name: file.read_text() for file in path.glob("*.json")}

    def test_weights_are_packed_to_their_width(self, tmp_path: Path) -> None:
        from compressed_tensors.compressors.pack_quantized.helpers import unpack_from_int32

        source, path = source_of("linear"), self.path(tmp_path)
        self.write(source, path)
        state = load_file(path / "model.safetensors")
        assert torch.equal(state["qkv.weight"].int(), source.module.codes["qkv", "weight"].int() - 2**7)
        packed = state["fc1.weight_packed"]
        assert packed.shape == (32, 2), "16 codes of three bits, and what fills the second word up"
        found = unpack_from_int32(packed, 3, torch.Size(state["fc1.weight_shape"].tolist()))
        assert torch.equal(found.int(), source.module.codes["fc1", "weight"].int() - 2**2)
        assert "weight_zero_point" not in {name.rpartition(".")[2] for name in state if name.startswith("proj.")}
        assert "head.weight" in state, "its input alone is quantized"


def test_a_vit_of_transformers_loads_by_from_pretrained(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    settings = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = transformers.ViTConfig(**settings, image_size=16, patch_size=8, num_labels=5)
        transformers.ViTForImageClassification(config).save_pretrained(tmp_path / "model")
    transformers.ViTImageProcessor(size={"height": 16, "width": 16}).save_pretrained(tmp_path / "model")
    quantized = autoq.quantize(f"hf-dir:{tmp_path / 'model'}", "rtn", IMAGES, bits="w4a8", calib_images=12)
    report = autoq.export(quantized, tmp_path / "quantized", "compressed-tensors", images=IMAGES, allow_float=True)
    assert report.agreement is not None
    assert report.agreement.agreement_percent == 100
    loaded = transformers.ViTForImageClassification.from_pretrained(tmp_path / "quantized").eval()
    left = [tuple(name.rsplit(":", 1)) for name in report.left_in_float]
    with torch.no_grad():
        expected = quantized.without(left)(IMAGES)
        torch.testing.assert_close(loaded(IMAGES).logits, expected.logits, rtol=0.02, atol=0.02)
