"""ONNX with QuantizeLinear, Clip and DequantizeLinear."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import autoq
from autoq.data import open_source
from autoq.exporters.onnx_qcdq import OnnxExporter
from autoq.exporters.timing import open_openvino
from autoq.models import load_model
from tests.api.models import IMAGES
from tests.contracts.exporters import ExporterContract
from tests.exporters.sources import sites_of, source_of
from tests.exporters.upsampling import AXES, quantized, upsampling
from tests.exporters.upsampling import IMAGES as UPSAMPLED

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")


class TestOnnx(ExporterContract):
    exporter = OnnxExporter
    blocked = ("autoq", "timm", "torch")
    alone = """
import onnxruntime
session = onnxruntime.InferenceSession(path)
logits = session.run(["logits"], {"x": images})[0]
"""

    def metadata(self, path: Path) -> dict[str, str]:
        return {entry.key: entry.value for entry in onnx.load(path).metadata_props}

    def graph(self, case: str, factory: pytest.TempPathFactory) -> Any:
        return onnx.load(self.written(case, factory)[1]).graph

    def test_every_uniform_operand_is_integers(self, tmp_path_factory: pytest.TempPathFactory) -> None:
        counts = Counter(node.op_type for node in self.graph("w4a4", tmp_path_factory).node)
        sites = list(sites_of("w4a4").values())
        weights = sum("weight" in site for site in sites)
        activations = sum(len(site) for site in sites) - weights
        assert counts["QuantizeLinear"] == counts["Clip"] == activations
        assert counts["DequantizeLinear"] == activations + weights
        assert not {"Round", "Where"} & counts.keys()

    def test_weights_are_codes_alone(self, tmp_path_factory: pytest.TempPathFactory) -> None:
        graph = self.graph("w8a8", tmp_path_factory)
        found = {each.name: onnx.numpy_helper.to_array(each) for each in graph.initializer}
        for key, codes in source_of("w8a8").module.codes.items():
            stored = found[f"{key[0]}:{key[1]}.codes"]
            assert stored.dtype == np.uint8
            assert np.array_equal(stored, codes.numpy()) or np.array_equal(stored.T, codes.numpy())
            floats = [value for value in found.values() if value.dtype == np.float32]
            assert not [value for value in floats if value.size == codes.numel()]
        transposed = [node for node in graph.node if node.op_type == "Transpose" and "codes" in node.input[0]]
        assert transposed == [], "they are stored as they are multiplied"

    def test_weights_of_seven_bits_and_less_cannot_saturate(self, tmp_path_factory: pytest.TempPathFactory) -> None:
        graph = self.graph("w4a4", tmp_path_factory)
        codes = [onnx.numpy_helper.to_array(each) for each in graph.initializer if each.name.endswith(".codes")]
        assert codes
        assert all(each.dtype == np.int8 and abs(each.astype(int)).max() <= 2**6 for each in codes)

    def test_floating_point_formats_are_ordinary_operators(self, tmp_path_factory: pytest.TempPathFactory) -> None:
        source, (report, path) = source_of("floating"), self.written("floating", tmp_path_factory)
        assert report.plain_operators["qkv:input"] == "scheme mxfp4"
        assert report.plain_operators["fc2:input"] == "scheme fp8_e4m3"
        with torch.no_grad():
            expected = source.module(IMAGES)["logits"].numpy()
        found = onnxruntime.InferenceSession(path).run(["logits"], {"x": IMAGES.numpy()})[0]
        # Not one element may be rounded to another value.
        assert np.allclose(found, expected, atol=1e-3 * np.abs(expected).max())

    @pytest.mark.parametrize("kind", ["w8a8", "mixed"])
    def test_default_optimizations_change_no_answer(self, kind: str, tmp_path_factory: pytest.TempPathFactory) -> None:
        _, path = self.written(kind, tmp_path_factory)
        outputs = []
        for level in ("ORT_DISABLE_ALL", "ORT_ENABLE_ALL"):
            options = onnxruntime.SessionOptions()
            options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, level)
            session = onnxruntime.InferenceSession(path, options)
            outputs.append(session.run(["logits"], {"x": IMAGES.numpy()})[0])
        plain, optimized = outputs
        assert (plain.argmax(1) == optimized.argmax(1)).mean() >= 0.95
        assert np.abs(plain - optimized).mean() < 0.02 * np.abs(plain).mean()

    @pytest.mark.parametrize("kind", ["w8a8", "w4a4"])
    def test_openvino_agrees(self, kind: str, tmp_path_factory: pytest.TempPathFactory) -> None:
        pytest.importorskip("openvino")
        _, path = self.written(kind, tmp_path_factory)
        with torch.no_grad():
            expected = source_of(kind).module(IMAGES)["logits"].numpy()
        found = open_openvino(path, [IMAGES], 1)()[1]  # type: ignore[index]
        assert (found.argmax(1) == expected.argmax(1)).mean() >= 0.95
        assert np.abs(found - expected).mean() < 0.02 * np.abs(expected).mean()

    def test_any_batch_size(self, tmp_path_factory: pytest.TempPathFactory) -> None:
        source, (_, path) = source_of("mixed"), self.written("mixed", tmp_path_factory)
        session = onnxruntime.InferenceSession(path)
        assert session.get_outputs()[0].name == "tokens"
        with torch.no_grad():
            for batch in (1, 3, 7):
                expected = source.module(IMAGES[:batch])["logits"].numpy()
                found = session.run(["logits"], {"x": IMAGES[:batch].numpy()})[0]
                assert np.allclose(found, expected, atol=0.02)

    def test_logarithms_are_operators_with_fast_kernels(self, tmp_path_factory: pytest.TempPathFactory) -> None:
        nodes = self.graph("mixed", tmp_path_factory).node
        made = Counter(node.op_type for node in nodes if node.name.startswith("av:lhs"))
        assert made["Log"] == made["QuantizeLinear"] == made["ThresholdedRelu"] == 1
        assert not made.keys() & {"Where", "Gather", "GatherND", "Less", "Greater"}

    def test_what_is_no_integer_is_told(self, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
        report, path = self.written("mixed", tmp_path_factory)
        assert report.plain_operators["av:lhs"] == "scheme adalog"
        assert report.plain_operators["qk:lhs"] == "one scale a head"
        assert report.plain_operators["fc1:weight"] == "stored as codes: its input has no integers"
        optimized = tmp_path / "optimized.onnx"
        options = onnxruntime.SessionOptions()
        options.optimized_model_filepath = str(optimized)
        onnxruntime.InferenceSession(path, options)
        assert "MatMulNBits" not in {node.op_type for node in onnx.load(optimized).graph.node}, "it rounds the input"
        assert "fc2:input" not in report.plain_operators, "the transform is ordinary operators, the product integers"


@pytest.mark.parametrize("bits", [4, 8])
def test_scales_of_a_transposed_convolution_lie_along_its_outputs(bits: int, tmp_path: Path) -> None:
    module = quantized(bits)
    assert module.quantizers["up", "weight"].qparams()["scale"].shape == (1, 6, 1, 1)
    path = tmp_path / "model.onnx"
    report = autoq.export(module, path, "onnx", model=upsampling(), images=UPSAMPLED)
    assert report.agreement is not None
    assert report.agreement.mean_difference < 1e-3 * report.agreement.mean_magnitude
    axes = {node.name: node.attribute[0].i for node in onnx.load(path).graph.node if "weight" in node.name}
    assert axes == {f"{site}:weight.DequantizeLinear": axis for site, axis in AXES.items()}


@pytest.mark.slow
def test_a_detector_says_in_onnxruntime_what_it_says_in_autoq(tmp_path: Path) -> None:
    module = autoq.quantize("swin_shapes", "rtn", "shapes", bits="w8a8", task="detection", calib_images=4)
    path = tmp_path / "detector.onnx"
    autoq.export(module, path, "onnx", images="shapes", check_images=2)
    loaded, source = load_model("swin_shapes"), open_source("shapes", "evaluation")
    assert loaded.transform is not None
    images = torch.stack([loaded.transform(source.load(index)) for index in range(6)])
    session = onnxruntime.InferenceSession(path)
    names = [output.name for output in session.get_outputs()]
    assert names == ["logits", "pred_boxes", "pred_masks"]
    answers = session.run(names, {session.get_inputs()[0].name: images.numpy()})
    with torch.no_grad():
        expected = module(images)
    for name, answer in zip(names, answers, strict=True):
        difference = np.abs(answer - expected[name].numpy()).mean()
        assert difference < 0.02 * expected[name].abs().mean(), name
    found = expected["logits"].amax(-1) > 0
    assert found.any()
    assert (torch.from_numpy(answers[0]).argmax(-1) == expected["logits"].argmax(-1))[found].all()
