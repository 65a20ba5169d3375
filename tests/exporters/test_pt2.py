"""``torch.export`` programs."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from autoq.exporters.pt2 import Pt2Exporter
from tests.contracts.exporters import ExporterContract
from tests.exporters.sources import source_of


class TestPt2(ExporterContract):
    exporter = Pt2Exporter
    is_exact = True
    alone = """
import torch
with torch.no_grad():
    logits = torch.export.load(path).module()(torch.from_numpy(images))["logits"].numpy()
"""

    def metadata(self, path: Path) -> dict[str, str]:
        files = {"recipe.json": "", "preprocessing.json": "", "autoq_version": ""}
        torch.export.load(path, extra_files=files)
        return files

    def test_weights_are_codes_alone(self, tmp_path_factory: pytest.TempPathFactory) -> None:
        source, (_, path) = source_of("w8a8"), self.written("w8a8", tmp_path_factory)
        state = torch.export.load(path).state_dict
        weights = sum(codes.numel() for codes in source.module.codes.values())
        floats = sum(value.numel() for value in state.values() if value.is_floating_point())
        assert sum(value.numel() for value in state.values() if value.dtype == torch.uint8) == weights
        assert floats < weights / 2
