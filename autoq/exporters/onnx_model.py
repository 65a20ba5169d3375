"""A quantized model as an ONNX graph in which quantized operands are marked, to be replaced by a format's own nodes.

Markers are nodes of their own: nothing is told by names, and what the exporter makes of the rest does not matter.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from autoq.exporters._base import ExportSource, Runner
from autoq.exporters.graphs import CodedWeight, TracedByPosition, quantized_weights
from autoq.files import sha256_hex
from autoq.graph.insert import OperandKey
from autoq.graph.nodes import attribute
from autoq.graph.outputs import tensor_names
from autoq.identity import tensor_chunks
from autoq.quantizers import BaseQuantizer
from autoq.scoring.quantized_module import QuantizedWeight

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto

OPSET = 21
"""The last for which onnxruntime has kernels of QuantizeLinear and all that these models need."""
_DOMAIN, _OPERATOR = "autoq", "Operand"
_MOST_KEPT = 4
_exported: dict[str, ModelProto] = {}
"""The last exports, by what they were made of: recipes that quantize the same operands differ in markers alone."""


class _Marker(nn.Module):
    """Marks an activation, or its product with the basis of its codes."""

    def __init__(self, number: int, quantizer: BaseQuantizer) -> None:
        super().__init__()
        self.number, self.quantizer = number, quantizer

    @property
    def has_basis(self) -> bool:
        """Whether the quantizer has a say in what is marked."""
        return type(self.quantizer).to_basis is not BaseQuantizer.to_basis

    def forward(self, x: Tensor) -> Tensor:
        return _marked(self.quantizer.to_basis(x), self.number)


class _WeightMarker(nn.Module):
    """Marks a weight; the values that it is traced with are dropped later."""

    value: Tensor

    def __init__(self, number: int, weight: QuantizedWeight) -> None:
        super().__init__()
        self.number = number
        self.register_buffer("value", weight.value)

    def forward(self) -> Tensor:
        return _marked(self.value, self.number)


def _marked(x: Tensor, number: int) -> Tensor:
    made: Tensor = torch.onnx.ops.symbolic(
        f"{_DOMAIN}::{_OPERATOR}", (x,), {"number": number}, dtype=x.dtype, shape=x.shape, version=1
    )
    return made


def export_marked(
    source: ExportSource, keys: Collection[OperandKey], *, free_batch: bool = True
) -> tuple[ModelProto, dict[int, OperandKey]]:
    """Export a quantized model, operands marked.

    Where all that quantizes is a marker, models that differ in it alone are exported once.

    Args:
        source: the model.
        keys: operands to mark; all others become ordinary operators, with the arithmetic of their quantizers.
        free_batch: whether batches may have any size, or have one image.

    Returns:
        The model, and the operands by the numbers of their markers. Marked weights have no values.
    """
    module, weights = source.module, quantized_weights(source.module)
    numbers = dict(enumerate(sorted(keys)))
    operands: dict[OperandKey, nn.Module] = {key: CodedWeight(weight) for key, weight in weights.items()}
    for number, key in numbers.items():
        is_weight = key in weights
        operands[key] = _WeightMarker(number, weights[key]) if is_weight else _Marker(number, module.quantizers[key])
    example = source.images[:1].repeat(2 if free_batch else 1, *[1] * (source.images.ndim - 1))
    traced = TracedByPosition(module, operands).eval()
    with torch.no_grad():
        names = [name or "output" for name in tensor_names(module(example))]
    fingerprint = _fingerprint(traced, example, names) if numbers else None
    if fingerprint is None:
        return _export(traced, example, names, free_batch=free_batch), numbers
    made = _exported.pop(fingerprint, None)
    if made is None:
        made = _without_marked_values(_export(traced, example, names, free_batch=free_batch))
    _exported[fingerprint] = made  # the last one is the latest
    if len(_exported) > _MOST_KEPT:
        del _exported[next(iter(_exported))]
    return type(made).FromString(made.SerializeToString()), numbers


def _fingerprint(traced: TracedByPosition, example: Tensor, names: list[str]) -> str | None:
    """Identify what an export is made of, values of marked weights aside; None where more than markers quantizes."""
    module = traced.module
    parts = [repr((module.model.code, module.input_name, names, example.shape, example.dtype)).encode()]
    for node in module.model.graph.nodes:
        if node.op == "call_module":
            marker = module.model.get_submodule(str(node.target))
            if isinstance(marker, _WeightMarker):
                parts.append(repr((marker.number, marker.value.shape, marker.value.dtype)).encode())
            elif isinstance(marker, _Marker) and not marker.has_basis:
                parts.append(repr(marker.number).encode())
            else:
                return None
        elif node.op == "get_attr":
            value = attribute(module.model, str(node.target))
            if not isinstance(value, Tensor):
                return None
            parts += tensor_chunks([(str(node.target), value)])
    return sha256_hex(parts)


def _without_marked_values(model: ModelProto) -> ModelProto:
    """Empty the initializers that markers alone read: a format puts its own in their places."""
    graph = model.graph
    marked = {name for node in graph.node if node.domain == _DOMAIN for name in node.input}
    others = {name for node in graph.node if node.domain != _DOMAIN for name in node.input}
    for initializer in graph.initializer:
        if initializer.name in marked - others:
            initializer.ClearField("raw_data")
    return model


def _export(traced: TracedByPosition, example: Tensor, names: list[str], *, free_batch: bool) -> ModelProto:
    """Export a model with whatever markers it has."""
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of exporter internals
        program = torch.onnx.export(
            traced,
            (example,),
            dynamo=True,
            opset_version=OPSET,
            dynamic_shapes={"x": {0: torch.export.Dim("batch")}} if free_batch else None,
            input_names=[traced.module.input_name],
            output_names=names,
            custom_translation_table={
                torch.ops.prims.frexp.default: _frexp,
                torch.ops.prims.signbit.default: _signbit,
            },
            verbose=False,
        )
    assert program is not None  # noqa: S101 - of dynamo
    return _without_traces(program.model_proto)


def _frexp(x: Any) -> tuple[Any, Any]:
    """Write ``torch.frexp``, which the exporter lacks: a logarithm, and what corrects it beside a power of two."""
    from onnxscript import opset21

    op: Any = opset21
    one = op.CastLike(op.Constant(value_float=1.0), x)
    two = op.CastLike(op.Constant(value_float=2.0), x)
    is_zero = op.Equal(x, op.Sub(x, x))
    magnitude = op.Where(is_zero, one, op.Abs(x))
    octave = op.Floor(op.Div(op.Log(magnitude), op.Log(two)))
    significand = op.Div(magnitude, op.Pow(two, octave))
    up, down = op.CastLike(op.GreaterOrEqual(significand, two), x), op.CastLike(op.Less(significand, one), x)
    exponent = op.Where(is_zero, op.Sub(x, x), op.Add(op.Sub(op.Add(octave, up), down), one))
    return op.Div(x, op.Pow(two, exponent)), op.Cast(exponent, to=6)  # int32


def _signbit(x: Any) -> Any:
    """Write ``torch.signbit``, but for negative zero."""
    from onnxscript import opset21 as op

    return op.Less(x, op.Sub(x, x))


def _without_traces(model: ModelProto) -> ModelProto:
    """Drop what the exporter notes of the source code, which names places on this machine."""
    for node in model.graph.node:
        del node.metadata_props[:]
        node.doc_string = ""
    for value in (*model.graph.value_info, *model.graph.input, *model.graph.output, *model.graph.initializer):
        del value.metadata_props[:]
        value.doc_string = ""
    del model.graph.metadata_props[:]
    return model


class Markers:
    """The markers of a graph, each of which is replaced once.

    Attributes:
        graph: is changed.
    """

    def __init__(self, model: ModelProto, numbers: dict[int, OperandKey]) -> None:
        """Find the markers of a model that :func:`export_marked` made."""
        self._model, self._numbers = model, numbers
        self.graph: GraphProto = model.graph

    def replace_(self, make: Callable[[OperandKey, str, str, bool], list[NodeProto]]) -> None:
        """Replace every marker, and drop what is then read by nobody.

        Args:
            make: gets the operand, the name of the marked tensor, that of the result, and whether the result is wanted
                transposed; returns the nodes that make it.
        """
        nodes: list[NodeProto] = []
        transposed = self._transposed()
        for node in self.graph.node:
            if node.domain == _DOMAIN:
                key = self._numbers[node.attribute[0].i]
                result = transposed.get(node.output[0], node.output[0])
                nodes += make(key, node.input[0], result, node.output[0] in transposed)
            elif not (node.op_type == "Transpose" and node.output[0] in transposed.values()):
                nodes.append(node)
        replace_nodes_(self.graph, nodes)
        kept = [opset for opset in self._model.opset_import if opset.domain != _DOMAIN]
        del self._model.opset_import[:]
        self._model.opset_import.extend(kept)

    def _transposed(self) -> dict[str, str]:
        """Return marked tensors that are read by one transposition of a matrix alone, and what that returns."""
        marked = {node.output[0] for node in self.graph.node if node.domain == _DOMAIN and _is_constant(self, node)}
        readers: dict[str, list[NodeProto]] = {name: [] for name in marked}
        for node in self.graph.node:
            for name in set(node.input) & marked:
                readers[name].append(node)
        return {name: found[0].output[0] for name, found in readers.items() if len(found) == 1 and _swaps(found[0])}


def _is_constant(markers: Markers, node: NodeProto) -> bool:
    return any(node.input[0] == initializer.name for initializer in markers.graph.initializer)


def _swaps(node: NodeProto) -> bool:
    """Whether a node transposes a matrix."""
    if node.op_type != "Transpose":
        return False
    return any(attribute.name == "perm" and list(attribute.ints) == [1, 0] for attribute in node.attribute)


def replace_nodes_(graph: Any, nodes: list[NodeProto]) -> None:
    """Give a graph these nodes, less those that nobody reads, and drop initializers that nobody reads."""
    outputs = {value.name for value in graph.output}
    while True:
        read = outputs | {name for node in nodes for name in node.input}
        kept = [node for node in nodes if any(name in read for name in node.output)]
        if len(kept) == len(nodes):
            break
        nodes = kept
    copies = [type(node).FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(copies)
    initializers = [each for each in graph.initializer if each.name in read]
    copied = [type(each).FromString(each.SerializeToString()) for each in initializers]
    del graph.initializer[:]
    graph.initializer.extend(copied)
    made = {name for node in copies for name in node.output}
    infos = [type(each).FromString(each.SerializeToString()) for each in graph.value_info if each.name in made]
    del graph.value_info[:]
    graph.value_info.extend(infos)


def remove_identities_(graph: GraphProto) -> dict[str, str]:
    """Remove operators that return what they read, and return the names that are gone with what they stood for."""
    outputs = {value.name for value in graph.output}
    renamed: dict[str, str] = {}
    nodes: list[NodeProto] = []
    for node in graph.node:  # in order, so that what an identity reads has its last name
        for index, name in enumerate(node.input):
            node.input[index] = renamed.get(name, name)
        if node.op_type == "Identity" and node.output[0] not in outputs:
            renamed[node.output[0]] = node.input[0]
        else:
            nodes.append(node)
    replace_nodes_(graph, nodes)
    return renamed


def onnxruntime_runner(model: Path | bytes) -> Runner:
    """Open a model in onnxruntime, with its default optimizations, and return what runs it."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda images: [torch.from_numpy(found) for found in session.run(None, {name: images.numpy()})]
