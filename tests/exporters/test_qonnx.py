"""QONNX files."""

from __future__ import annotations

from pathlib import Path

import pytest

from autoq.cost import model_cost
from autoq.errors import ExportError
from autoq.exporters.qonnx import QonnxExporter
from tests.contracts.exporters import ExporterContract
from tests.exporters.sources import sites_of, small_model, source_of

onnx = pytest.importorskip("onnx")
pytest.importorskip("qonnx")


class TestQonnx(ExporterContract):
    exporter = QonnxExporter
    cases = ("symmetric", "fpga")
    refused = ("w4a4", "mixed")
    blocked = ("autoq", "timm", "torch")
    alone = """
from qonnx.core.modelwrapper import ModelWrapper
from qonnx.core.onnx_exec import execute_onnx
from qonnx.transformation.infer_shapes import InferShapes
model = ModelWrapper(path).transform(InferShapes())
logits = numpy.concatenate([execute_onnx(model, {"x": image[None]})["logits"] for image in images])
"""

    def metadata(self, path: Path) -> dict[str, str]:
        return {entry.key: entry.value for entry in onnx.load(path).metadata_props}

    def test_qonnx_counts_the_bit_operations_that_autoq_counts(
        self, case: str, tmp_path_factory: pytest.TempPathFactory
    ) -> None:
        from qonnx.util.inference_cost import inference_cost

        _, path = self.written(case, tmp_path_factory)
        found = inference_cost(str(path), discount_sparsity=False)["total_cost"]
        expected = model_cost(small_model().traced.sites, sites_of(case))
        assert found["total_bops"] == expected.bops
        assert found["total_macs"] == small_model().traced.macs

    def test_affine_operands_are_refused_with_a_remedy(self, tmp_path: Path) -> None:
        with pytest.raises(ExportError, match=r"its zero point is not 0.*: use space fpga_2-8, or symmetric = true"):
            self.write(source_of("w4a4"), self.path(tmp_path))
