"""AIMET's encodings."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

import autoq
from autoq.errors import ExportError
from autoq.exporters.aimet import AimetExporter
from tests.contracts.exporters import ExporterContract
from tests.exporters.sources import source_of
from tests.exporters.upsampling import AXES, quantized, upsampling
from tests.exporters.upsampling import IMAGES as UPSAMPLED

onnx = pytest.importorskip("onnx")


class TestAimet(ExporterContract):
    exporter = AimetExporter
    cases = ("linear",)
    refused = ("w8a8", "w4a4", "mixed")

    def metadata(self, path: Path) -> dict[str, str]:
        return {entry.key: entry.value for entry in onnx.load(path.with_suffix(".onnx")).metadata_props}

    def test_tensors_are_in_the_model_beside_it(self, tmp_path_factory: pytest.TempPathFactory) -> None:
        _, path = self.written("w8a8", tmp_path_factory)
        document = json.loads(path.read_text())
        assert document["version"] == "2.0.0"
        found = {each["name"]: each for each in document["encodings"]}
        graph = onnx.load(path.with_suffix(".onnx")).graph
        stored = {each.name: onnx.numpy_helper.to_array(each) for each in graph.initializer}
        produced = {name: node.op_type for node in graph.node for name in node.output} | {"x": "the input"}
        kinds = Counter(produced[name] for name in found if name not in stored)
        assert kinds["the input"] == 1
        assert not kinds.keys() & {"Reshape", "Transpose", "Identity", "Gather", "Squeeze", "Split"}
        assert "Identity" not in set(produced.values())
        for name in stored.keys() & found.keys():
            axis, scale = found[name]["axis"], found[name]["y_scale"]
            assert found[name]["output_dtype"] == "int8"
            assert stored[name].shape[axis] == len(scale)
            steps = np.moveaxis(stored[name], axis, -1) / np.array(scale)
            assert np.abs(steps - steps.round()).max() < 1e-3, "weights have the values of their codes"

    def test_what_lies_behind_reshapes_is_named(self, tmp_path: Path) -> None:
        source = source_of("w4a4")
        with pytest.raises(ExportError, match=r"qk:lhs.*, qk:rhs.*, av:rhs \(uniform\): it is behind a reshape"):
            self.write(source, self.path(tmp_path))

    def test_a_model_of_somebody_elses_is_left(self, tmp_path: Path) -> None:
        beside = self.path(tmp_path).with_suffix(".onnx")
        beside.write_text("mine")
        with pytest.raises(ExportError, match=r"quantized\.onnx'.* choose another name"):
            self.write(source_of("linear"), self.path(tmp_path))
        assert beside.read_text() == "mine"


def test_encodings_of_a_transposed_convolution_lie_along_its_outputs(tmp_path: Path) -> None:
    path = tmp_path / "model.encodings"
    report = autoq.export(quantized(4), path, "aimet", model=upsampling(), images=UPSAMPLED)
    encodings = {each["name"]: each.get("axis") for each in json.loads(path.read_text())["encodings"]}
    assert {name: encodings[f"{name}.weight"] for name in AXES} == AXES
    assert report.agreement is not None
    assert report.agreement.mean_difference < 1e-3 * report.agreement.mean_magnitude
