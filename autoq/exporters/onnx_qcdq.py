"""ONNX with QuantizeLinear, Clip and DequantizeLinear: integers of 2 to 8 bits in containers of 8."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from autoq.exporters._base import BaseExporter, ExportSource, Runner, Written
from autoq.exporters.affine_codes import AffineCodes, affine_codes
from autoq.exporters.onnx_logarithmic import has_logarithmic_nodes, logarithmic_nodes
from autoq.exporters.onnx_model import Markers, export_marked, onnxruntime_runner
from autoq.graph.insert import OperandKey

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto


class OnnxExporter(BaseExporter):
    """Writes ONNX that runs in integers in onnxruntime, whose default optimizations change no answer.

    Weights and activations with one scale a tensor (weights: an output channel) are Q, Clip and DQ nodes around float
    operators, which runtimes fuse into integer ones. All else is written with ordinary operators.
    """

    name: ClassVar[str] = "onnx"
    suffix: ClassVar[str] = ".onnx"
    reader: ClassVar[str] = "onnxruntime, openvino, and what else reads ONNX (opset 21)"
    expresses: ClassVar[str] = "as integers: uniform, 1 to 8 bits, one scale a tensor (weights: a channel)"
    loses: ClassVar[str] = "nothing; other operands are ordinary operators, in floating point"
    packages: ClassVar[tuple[str, ...]] = ("onnx", "onnxruntime", "onnxscript")
    extra: ClassVar[str | None] = "onnx"

    def write(self, source: ExportSource, path: Path) -> Written:
        """Export the model with markers, and put Q, Clip and DQ in their places."""
        import onnx

        quantized, plain = split_operands(source)
        # onnxruntime would round the inputs of such weights, too, if they were DequantizeLinear nodes (MatMulNBits).
        alone = {key for key in quantized if key[1] == "weight" and (key[0], "input") not in quantized}
        quantizers = source.module.quantizers
        activations = [key for key in plain if not quantizers[key].layout.is_weight]
        logarithmic = {key: made for key in activations if has_logarithmic_nodes(made := quantizers[key])}
        model, numbers = export_marked(source, [*quantized, *logarithmic])
        nodes = _Nodes(model)

        def make(key: OperandKey, tensor: str, result: str, transposed: bool) -> list[NodeProto]:
            name = f"{key[0]}:{key[1]}"
            if key in logarithmic:
                return _named(name, logarithmic_nodes(logarithmic[key], name, tensor, result, nodes.constant))
            operand = quantized[key]
            if operand.codes is None:
                return nodes.activation(name, operand, tensor, result)
            return nodes.weight(name, operand, result, transposed=transposed, is_fused=key not in alone)

        Markers(model, numbers).replace_(make)
        self.finish_(source, model.graph)
        onnx.helper.set_model_props(model, source.metadata)
        onnx.checker.check_model(model)
        onnx.save(model, path)
        return Written(plain | dict.fromkeys(alone, "stored as codes: its input has no integers"))

    def finish_(self, source: ExportSource, graph: GraphProto) -> None:
        """Change the graph before it is saved; formats that build on this one override it."""

    def load(self, source: ExportSource, path: Path) -> Runner:  # noqa: ARG002
        """Open a session with onnxruntime's default optimizations."""
        return onnxruntime_runner(path)


def split_operands(source: ExportSource) -> tuple[dict[OperandKey, AffineCodes], dict[OperandKey, str]]:
    """Return the operands that have codes of 8 bits, and why the others have none.

    The codes of a weight are of its product with the basis of its input's codes, if there is one: without codes of the
    input, the weight has none either.
    """
    module = source.module
    found = {key: affine_codes(module, key) for key in module.quantizers}
    for (site, operand), codes in list(found.items()):
        other = (site, "input" if operand == "weight" else "weight")
        is_transformed = module.quantizers[site, operand].config.hadamard_block > 1
        if is_transformed and not isinstance(codes, str) and isinstance(found.get(other, "missing"), str):
            found[site, operand] = "the other operand of its product has no codes in that basis"
    quantized = {key: codes for key, codes in found.items() if not isinstance(codes, str)}
    return quantized, {key: codes for key, codes in found.items() if isinstance(codes, str)}


class _Nodes:
    """Makes the nodes of operands, and adds their constants to a model."""

    def __init__(self, model: ModelProto) -> None:
        self._graph = model.graph

    def activation(self, name: str, operand: AffineCodes, tensor: str, result: str) -> list[NodeProto]:
        """Quantize, clip to the codes that there are, and dequantize."""
        from onnx import helper

        scale, zero_point = self._parameters(name, operand)
        nodes = [helper.make_node("QuantizeLinear", [tensor, scale, zero_point], [f"{name}.code"])]
        code = f"{name}.code"
        if operand.is_clipped:
            kind = np.dtype(operand.container)
            bounds = [
                self.constant(f"{name}.{which}", np.array(bound, kind))
                for which, bound in (("least", operand.least), ("greatest", operand.greatest))
            ]
            nodes.append(helper.make_node("Clip", [code, *bounds], [f"{name}.clipped"]))
            code = f"{name}.clipped"
        nodes.append(helper.make_node("DequantizeLinear", [code, scale, zero_point], [result]))
        return _named(name, nodes)

    def weight(
        self, name: str, operand: AffineCodes, result: str, *, transposed: bool, is_fused: bool
    ) -> list[NodeProto]:
        """Dequantize codes, by one node that runtimes fuse into a product, or by ordinary operators."""
        from onnx import TensorProto, helper

        assert operand.codes is not None  # noqa: S101 - it is a weight
        axis = operand.codes.ndim - 1 - operand.axis if transposed else operand.axis
        codes = operand.codes.numpy().T if transposed else operand.codes.numpy()
        stored = self.constant(f"{name}.codes", codes)
        if is_fused:
            scale, zero_point = self._parameters(name, operand)
            along: dict[str, Any] = {"axis": axis} if operand.scale.numel() > 1 else {}
            return _named(name, [helper.make_node("DequantizeLinear", [stored, scale, zero_point], [result], **along)])
        shape = [-1 if each == axis else 1 for each in range(codes.ndim)]
        scale = self.constant(f"{name}.scale", operand.scale.numpy().reshape(shape))
        zero_point = self.constant(f"{name}.zero_point", operand.zero_point.numpy().astype(np.float32).reshape(shape))
        nodes = [
            helper.make_node("Cast", [stored], [f"{name}.code"], to=TensorProto.FLOAT),
            helper.make_node("Sub", [f"{name}.code", zero_point], [f"{name}.steps"]),
            helper.make_node("Mul", [f"{name}.steps", scale], [result]),
        ]
        return _named(name, nodes)

    def _parameters(self, name: str, operand: AffineCodes) -> tuple[str, str]:
        """Add scale and zero point, without dimensions if they are one number."""
        shape = () if operand.scale.numel() == 1 else (-1,)
        scale = self.constant(f"{name}.scale", operand.scale.numpy().reshape(shape))
        return scale, self.constant(f"{name}.zero_point", operand.zero_point.numpy().reshape(shape))

    def constant(self, name: str, value: np.ndarray) -> str:
        """Add an initializer."""
        from onnx import numpy_helper

        self._graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(value).reshape(value.shape), name))
        return name


def _named(name: str, nodes: list[NodeProto]) -> list[NodeProto]:
    """Name nodes after their operand and what they do; the second of a kind has a number."""
    seen: Counter[str] = Counter()
    for node in nodes:
        seen[node.op_type] += 1
        node.name = f"{name}.{node.op_type}" + (f".{seen[node.op_type]}" if seen[node.op_type] > 1 else "")
    return nodes
