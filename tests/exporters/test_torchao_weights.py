"""States with torchao's tensors."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import autoq
from autoq.errors import ExportError
from autoq.exporters.torchao_weights import TorchaoExporter
from tests.contracts.exporters import ExporterContract
from tests.exporters.sources import architecture, source_of
from tests.exporters.upsampling import IMAGES as UPSAMPLED
from tests.exporters.upsampling import quantized, upsampling

pytest.importorskip("torchao")


class TestTorchao(ExporterContract):
    exporter = TorchaoExporter
    cases = ("weights",)
    refused = ("w8a8", "w4a4", "mixed")
    alone = """
import torch, torchao
from tests.api.models import HandWritten
model = HandWritten().eval()
model.load_state_dict(torch.load(path, weights_only=True)["state_dict"], assign=True)
with torch.no_grad():
    logits = model(torch.from_numpy(images))["logits"].numpy()
"""

    def metadata(self, path: Path) -> dict[str, str]:
        found: dict[str, str] = torch.load(path)
        return found

    def test_weights_are_the_codes_of_the_recipe(self, tmp_path: Path) -> None:
        source, path = source_of("weights"), self.path(tmp_path)
        self.write(source, path)
        state = torch.load(path)["state_dict"]
        for (site, operand), codes in source.module.codes.items():
            tensor, bits = state[f"{site}.{operand}"], source.recipe.sites[site][operand].bits
            assert tensor.target_dtype == getattr(torch, f"int{bits}")
            assert torch.equal(tensor.qdata.int(), codes.int() - 2 ** (bits - 1))
            expected = source.module.quantizers[site, operand].dequantize(codes.int())
            assert torch.equal(tensor.dequantize(), expected)

    def test_the_configuration_is_torchaos(self, tmp_path: Path) -> None:
        from torchao.core.config import config_from_dict
        from torchao.quantization import MappingType

        self.write(source_of("weights"), self.path(tmp_path))
        found = config_from_dict(json.loads(torch.load(self.path(tmp_path))["fqn_to_config"])).fqn_to_config
        assert found["qkv.weight"].weight_dtype == torch.int4
        assert found["qkv.weight"].mapping_type == MappingType.SYMMETRIC
        assert found["embed.weight"].mapping_type == MappingType.ASYMMETRIC

    def test_integer_operations_are_refused(self, tmp_path: Path) -> None:
        with pytest.raises(ExportError, match="compute in integers, which the model's own modules do not"):
            self.write(source_of("published"), self.path(tmp_path), allow_float=True)

    def test_the_model_is_left_as_it_is(self, tmp_path: Path) -> None:
        before = {name: value.clone() for name, value in architecture().module.state_dict().items()}
        self.write(source_of("weights"), self.path(tmp_path))
        after = architecture().module.state_dict()
        assert all(torch.equal(before[name], after[name]) for name in before)


def test_transposed_convolutions_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"up:weight.* torchao has no conv_transpose2d of such weights"):
        autoq.export(quantized(4), tmp_path / "model.pt", "torchao", model=upsampling(), images=UPSAMPLED)
