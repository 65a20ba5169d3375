"""ONNX files with packed weights."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from autoq.exporters import write_export
from autoq.exporters.onnx_int4 import OnnxInt4Exporter
from autoq.exporters.onnx_qcdq import OnnxExporter
from autoq.exporters.timing import open_openvino
from tests.api.models import IMAGES
from tests.contracts.exporters import ExporterContract
from tests.exporters.sources import source_of

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")


class TestOnnxInt4(ExporterContract):
    exporter = OnnxInt4Exporter
    cases = ("w4a4",)
    blocked = ("autoq", "timm", "torch")
    alone = """
import onnxruntime
logits = onnxruntime.InferenceSession(path).run(["logits"], {"x": images})[0]
"""

    def metadata(self, path: Path) -> dict[str, str]:
        return {entry.key: entry.value for entry in onnx.load(path).metadata_props}


def optimized(path: Path) -> tuple[Counter[str], list[np.ndarray]]:
    """The operators that onnxruntime runs, and what it answers."""
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = f"{path}.optimized"
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    session = onnxruntime.InferenceSession(path, options)
    operators = Counter(node.op_type for node in onnx.load(f"{path}.optimized").graph.node)
    return operators, session.run(None, {"x": IMAGES.numpy()})


@pytest.fixture(scope="module", params=["w4a4", "linear"])
def files(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path, Path]:
    """A case as ``onnx`` and as ``onnx-int4``."""
    folder, source = tmp_path_factory.mktemp(request.param), source_of(request.param)
    plain, packed = folder / "plain.onnx", folder / "packed.onnx"
    write_export(OnnxExporter(), source, plain)
    write_export(OnnxInt4Exporter(), source, packed)
    return request.param, plain, packed


def test_weights_are_half_as_large_and_run_by_the_same_kernels(files: tuple[str, Path, Path]) -> None:
    case, plain, packed = files
    source = source_of(case)
    stored = {each.name: each for each in onnx.load(packed).graph.initializer if each.name.endswith(".stored")}
    narrow = {key for key in source.module.codes if source.recipe.sites[key[0]]["weight"].bits <= 4}
    assert stored.keys() == {f"{site}:{operand}.codes.stored" for site, operand in narrow}
    assert {each.data_type for each in stored.values()} == {onnx.TensorProto.INT4}
    assert {len(each.raw_data) for each in stored.values()} == {source.module.codes[key].numel() // 2 for key in narrow}
    (kernels, answers), (others, expected) = optimized(packed), optimized(plain)
    assert kernels == others
    assert all(np.array_equal(one, other) for one, other in zip(answers, expected, strict=True))


def test_openvino_answers_the_same(files: tuple[str, Path, Path]) -> None:
    pytest.importorskip("openvino")
    _, plain, packed = files
    found, expected = (open_openvino(path, [IMAGES], 1)()[1] for path in (packed, plain))  # type: ignore[index]
    assert np.array_equal(found, expected)
