"""Where AIMET has quantizers, and what its encodings do to a graph."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from autoq.exporters.encoded_tensors import quantize_tensors_, why_not_encoded
from tests.exporters.sources import source_of

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")


def test_one_tensor_has_one_quantizer() -> None:
    model = source_of("w8a8").module.model
    qk_lhs, proj, values = ("qk", "lhs"), ("proj", "input"), ("av", "rhs")
    found = why_not_encoded(model, {qk_lhs: 1, proj: 2, values: 3})
    assert found.keys() == {qk_lhs, values}, "queries, keys and values are views of one tensor"
    assert "behind a reshape" in found[values]


def test_what_others_read_is_not_encoded() -> None:
    graph = torch.fx.Graph()
    x = graph.placeholder("x")
    quantized = graph.call_module("quantizers.fc.input", (x,))
    graph.output(graph.call_function(torch.add, (x, quantized)))
    root = torch.nn.Module()
    root.add_module("quantizers", torch.nn.ModuleDict({"fc": torch.nn.ModuleDict({"input": torch.nn.Identity()})}))
    found = why_not_encoded(torch.fx.GraphModule(root, graph), {("fc", "input"): 1})
    assert "others read its tensor" in found["fc", "input"]


@pytest.mark.parametrize(
    ("encoding", "expected"),
    [
        ({"output_dtype": "uint4", "y_scale": 0.5, "y_zero_point": 2}, [[-1.0, 0.0, 1.0], [6.5, 0.5, -1.0]]),
        ({"output_dtype": "int4", "y_scale": [1.0, 2.0], "axis": 0}, [[-8.0, 0.0, 1.0], [14.0, 0.0, -6.0]]),
    ],
)
def test_encodings_are_what_aimet_computes(encoding: dict[str, object], expected: list[list[float]]) -> None:
    from onnx import TensorProto, helper, numpy_helper

    weight = np.array([[-9.0, 0.2, 1.1], [20.0, 0.6, -6.2]], np.float32)
    graph = helper.make_graph(
        [helper.make_node("Add", ["w", "x"], ["y"])],
        "sum",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [2, 3])],
        [numpy_helper.from_array(weight, "w")],
    )
    quantize_tensors_(graph, [{"name": "w", **encoding}])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    session = onnxruntime.InferenceSession(model.SerializeToString())
    assert session.run(None, {"x": np.zeros((2, 3), np.float32)})[0].tolist() == expected
