"""ONNX models of one site each, in floating point and in integers, to be timed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from autoq.exporters.onnx_model import OPSET
from autoq.graph.sites import Operand, Site
from autoq.graph.trace import TracedModel

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

_OPERATORS = {"linear": "MatMul", "matmul": "MatMul", "bmm": "MatMul", "einsum": "Einsum"}
_SAFE_WEIGHT_BITS = 7
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
        operator = _OPERATORS.get(site.op, "Conv")
        attributes: dict[str, Any] = {}
        if operator != "MatMul":
            edge = next(iter(traced.edges[site.name, each.name] for each in site.operands))
            node = next(node for node in traced.graph_module.graph.nodes if node.name == edge.node)
            kernel = operands[-1][1][2:]
            attributes = {"equation": node.args[0]} if operator == "Einsum" else _convolution(node.args, kernel)
        return cls(operator, operands, tuple(attributes.items()))

    @property
    def inputs(self) -> list[Tensor]:
        """Random activations, in the order of the model's inputs."""
        generator = torch.Generator().manual_seed(_SEED)
        return [torch.randn(shape, generator=generator) for _, shape, is_weight in self.operands if not is_weight]

    def make(self, weight_bits: int | None, *, quantized: bool) -> ModelProto:
        """Return the model.

        Args:
            weight_bits: of weights; up to 7 they are int8, else uint8, as exports have them.
            quantized: whether all operands are 8-bit integers, of activations quantized at run time.
        """
        from onnx import TensorProto, helper, numpy_helper

        nodes: list[NodeProto] = []
        constants: dict[str, np.ndarray] = {}
        names = [
            self._add(each, nodes, constants, weight_bits if quantized else None, quantized) for each in self.operands
        ]
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
        quantized: bool,
    ) -> str:
        """Add what makes an operand of the operator, and return its name."""
        from onnx import helper

        name, shape, is_weight = operand
        kind: Any = np.int8 if is_weight and (weight_bits or 8) <= _SAFE_WEIGHT_BITS else np.uint8
        random = np.random.default_rng(_SEED)
        if not quantized:
            if is_weight:
                constants[name] = random.standard_normal(shape).astype(np.float32)
            return name
        axis = self._channel_axis(shape)
        scales = np.full((shape[axis],) if is_weight else (), 0.02, np.float32)
        constants[f"{name}.scale"] = scales
        constants[f"{name}.zero_point"] = (
            np.zeros(scales.shape, kind) if kind is np.int8 else np.full(scales.shape, 128, kind)
        )
        parameters = [f"{name}.scale", f"{name}.zero_point"]
        along: dict[str, Any] = {"axis": axis} if is_weight else {}
        if is_weight:
            limit = 2 ** (_SAFE_WEIGHT_BITS - 1)
            low, high = (-limit, limit) if kind is np.int8 else (0, 256)
            constants[f"{name}.code"] = random.integers(low, high, shape).astype(kind)
        else:
            nodes.append(helper.make_node("QuantizeLinear", [name, *parameters], [f"{name}.code"]))
        nodes.append(helper.make_node("DequantizeLinear", [f"{name}.code", *parameters], [f"{name}.value"], **along))
        return f"{name}.value"

    def _channel_axis(self, shape: Sequence[int]) -> int:
        """Return the axis of a weight's output channels, as it is stored."""
        return 0 if self.operator == "Conv" else len(shape) - 1


def _shape(site: Site, operand: Operand, batch: int) -> tuple[int, ...]:
    """Return the shape of an operand for a batch; weights of linear layers are stored as they are multiplied."""
    if operand.is_weight:
        return operand.shape[::-1] if site.op == "linear" else operand.shape
    return (batch * operand.shape[0], *operand.shape[1:])


def _convolution(arguments: Sequence[Any], kernel: Sequence[int]) -> dict[str, Any]:
    """Return ONNX's attributes of ``conv(input, weight, bias, stride, padding, dilation, groups)``."""
    given = dict(zip(("stride", "padding", "dilation", "groups"), arguments[3:], strict=False))
    dilation = tuple(given.get("dilation", (1,) * len(kernel)))
    padding = given.get("padding", (0,) * len(kernel))
    before = after = (0,) * len(kernel)
    if padding == "same":
        total = [step * (size - 1) for step, size in zip(dilation, kernel, strict=True)]
        before = tuple(each // 2 for each in total)
        after = tuple(each - each // 2 for each in total)
    elif padding != "valid":
        before = after = tuple(padding)
    strides = tuple(given.get("stride", (1,) * len(kernel)))
    return {"group": given.get("groups", 1), "strides": strides, "dilations": dilation, "pads": (*before, *after)}
