"""ONNX models of one site each, in floating point and in integers, to be timed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from autoq.calibration.convolutions import Convolution, TransposedConvolution
from autoq.exporters.affine_codes import weight_container
from autoq.exporters.onnx_model import OPSET
from autoq.graph.sites import Operand, Site
from autoq.graph.trace import TracedModel

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

_OPERATORS = {
    "linear": "MatMul",
    "matmul": "MatMul",
    "bmm": "MatMul",
    "einsum": "Einsum",
    "conv_transpose2d": "ConvTranspose",
}
_SEED = 0


@dataclass(frozen=True)
class SiteModel:
    """A site as a model: its operator alone, on activations that are its inputs and weights that are constants.

    Attributes:
        operator: of ONNX.
        operands: names, shapes for a batch, and whether they are weights; in order.
        attributes: of the operator, hashable.
    """

    operator: str
    operands: tuple[tuple[str, tuple[int, ...], bool], ...]
    attributes: tuple[tuple[str, Any], ...] = ()

    @classmethod
    def of(cls, traced: TracedModel, site: Site, batch: int) -> SiteModel:
        """Describe a site that multiplies, for a number of images at a time."""
        operands = tuple((each.name, _shape(site, each, batch), each.is_weight) for each in site.operands)
        operator, node = _OPERATORS.get(site.op, "Conv"), traced.node(site.name)
        attributes: dict[str, Any] = {}
        if operator == "Einsum":
            attributes = {"equation": node.args[0]}
        elif operator == "Conv":
            geometry = Convolution.of_arguments(node.args, site.operand("weight").shape[2:])
            before, after = zip(*geometry.padding, strict=True)
            attributes = {"strides": geometry.stride, "dilations": geometry.dilation, "group": geometry.groups}
            attributes["pads"] = (*before, *after)
        elif operator == "ConvTranspose":
            transposed = TransposedConvolution.of_arguments(node.args, site.operand("weight").shape[2:])
            attributes = {"strides": transposed.stride, "dilations": transposed.dilation, "group": transposed.groups}
            attributes |= {"pads": transposed.padding * 2, "output_padding": transposed.output_padding}
        return cls(operator, operands, tuple(attributes.items()))

    @property
    def inputs(self) -> list[Tensor]:
        """Random activations, in the order of the model's inputs."""
        generator = torch.Generator().manual_seed(_SEED)
        return [torch.randn(shape, generator=generator) for _, shape, is_weight in self.operands if not is_weight]

    def make(self, weight_bits: int | None) -> ModelProto:
        """Return the model.

        Args:
            weight_bits: of weights, stored as exports have them, beside activations that are quantized to 8 bits at run
                time; None: all is in floating point.
        """
        from onnx import TensorProto, helper, numpy_helper

        nodes: list[NodeProto] = []
        constants: dict[str, np.ndarray] = {}
        names = [self._add(each, nodes, constants, weight_bits) for each in self.operands]
        nodes.append(helper.make_node(self.operator, names, ["output"], **dict(self.attributes)))
        inputs = [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
            for name, shape, is_weight in self.operands
            if not is_weight
        ]
        output = helper.make_tensor_value_info("output", TensorProto.FLOAT, None)
        stored = [numpy_helper.from_array(value, name) for name, value in constants.items()]
        graph = helper.make_graph(nodes, "site", inputs, [output], stored)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=10)

    def _add(
        self,
        operand: tuple[str, tuple[int, ...], bool],
        nodes: list[NodeProto],
        constants: dict[str, np.ndarray],
        weight_bits: int | None,
    ) -> str:
        """Add what makes an operand of the operator, and return its name."""
        from onnx import helper

        name, shape, is_weight = operand
        random = np.random.default_rng(_SEED)
        if weight_bits is None:
            if is_weight:
                constants[name] = random.standard_normal(shape).astype(np.float32)
            return name
        kind = np.dtype(weight_container(weight_bits) if is_weight else "uint8")
        axis = self._channel_axis(shape)
        each_scale = (shape[axis],) if is_weight else ()
        constants[f"{name}.scale"] = np.full(each_scale, 0.02, np.float32)
        constants[f"{name}.zero_point"] = np.full(each_scale, 128 if kind == np.uint8 else 0, kind)
        parameters = [f"{name}.scale", f"{name}.zero_point"]
        along: dict[str, Any] = {"axis": axis} if is_weight else {}
        if is_weight:
            least = 0 if kind == np.uint8 else -(2 ** (weight_bits - 1))
            constants[f"{name}.code"] = random.integers(least, least + 2**weight_bits, shape).astype(kind)
        else:
            nodes.append(helper.make_node("QuantizeLinear", [name, *parameters], [f"{name}.code"]))
        nodes.append(helper.make_node("DequantizeLinear", [f"{name}.code", *parameters], [f"{name}.value"], **along))
        return f"{name}.value"

    def _channel_axis(self, shape: Sequence[int]) -> int:
        """Return the axis of a weight's output channels, as it is stored."""
        return {"Conv": 0, "ConvTranspose": 1}.get(self.operator, len(shape) - 1)


def _shape(site: Site, operand: Operand, batch: int) -> tuple[int, ...]:
    """Return the shape of an operand for a batch; weights of linear layers are stored as they are multiplied."""
    if operand.is_weight:
        return operand.shape[::-1] if site.op == "linear" else operand.shape
    return (batch * operand.shape[0], *operand.shape[1:])
