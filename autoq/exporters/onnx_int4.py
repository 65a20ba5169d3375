"""ONNX whose weights of 4 bits and less take 4 bits in the file."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import numpy as np

from autoq.exporters._base import ExportSource
from autoq.exporters.onnx_model import replace_nodes_
from autoq.exporters.onnx_qcdq import OnnxExporter

if TYPE_CHECKING:
    from onnx import GraphProto

_LEAST, _GREATEST = -8, 7


class OnnxInt4Exporter(OnnxExporter):
    """Writes what ``onnx`` is, with INT4 tensors that are cast to INT8 before they are dequantized.

    Runtimes fold the cast when they load the file, so that they run the same kernels on the same codes. Had the product
    operands of INT4 themselves, onnxruntime would multiply in floating point.
    """

    name: ClassVar[str] = "onnx-int4"
    reader: ClassVar[str] = "onnxruntime, openvino, and what else has the INT4 tensors of opset 21"
    expresses: ClassVar[str] = "what onnx does; weights of at most 4 bits in half the bytes"

    def finish_(self, source: ExportSource, graph: GraphProto) -> None:
        """Pack the weights."""
        pack_weights_(graph, [f"{site}:{operand}.codes" for site, operand in source.module.codes])


def pack_weights_(graph: GraphProto, names: list[str]) -> None:
    """Store tensors as INT4, and cast them to INT8.

    Args:
        graph: is changed.
        names: of initializers, of which those in int8 within the codes of 4 bits are packed; others are left.
    """
    import ml_dtypes
    from onnx import TensorProto, helper, numpy_helper

    casts = []
    for initializer in graph.initializer:
        codes = numpy_helper.to_array(initializer) if initializer.name in names else np.zeros(0)
        if codes.dtype == np.int8 and codes.min() >= _LEAST and codes.max() <= _GREATEST:
            name, stored = initializer.name, f"{initializer.name}.stored"
            initializer.CopyFrom(numpy_helper.from_array(codes.astype(ml_dtypes.int4), stored))
            casts.append(helper.make_node("Cast", [stored], [name], name=f"{name}.Cast", to=TensorProto.INT8))
    replace_nodes_(graph, [*casts, *graph.node])
