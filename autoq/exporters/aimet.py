"""AIMET's encodings: JSON that says how tensors of an ONNX model in floating point are quantized."""

from __future__ import annotations

import json
import os
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from autoq.errors import ExportError
from autoq.exporters._base import BaseExporter, ExportSource, Runner, Written
from autoq.exporters.affine_codes import AffineCodes, centred_codes
from autoq.exporters.encoded_tensors import quantize_tensors_, why_not_encoded
from autoq.exporters.onnx_model import Markers, export_marked, onnxruntime_runner, remove_identities_
from autoq.graph.insert import OperandKey

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

_VERSION = "2.0.0"
_MODEL = ".onnx"
_UNQUANTIZED = frozenset({"Flatten", "Gather", "Identity", "Reshape", "Split", "Squeeze", "Transpose", "Unsqueeze"})
"""Operators of ONNX at whose outputs AIMET has no quantizers."""


class AimetExporter(BaseExporter):
    """Writes ``NAME.encodings``, and beside it ``NAME.onnx``, the model whose tensors it names.

    The weights in the model are the values of the recipe's codes, so that rounding them to their encodings changes
    nothing. Recipe, preprocessing and version are metadata of the model.
    """

    name: ClassVar[str] = "aimet"
    suffix: ClassVar[str] = ".encodings"
    reader: ClassVar[str] = "aimet_onnx.quantsim.load_encodings_to_sim, Qualcomm's converters; needs no AIMET to write"
    expresses: ClassVar[str] = "uniform operands of 2 to 8 bits, one scale a tensor (weights: an output channel)"
    loses: ClassVar[str] = "operands behind a reshape of a tensor that others read, such as keys and values"
    packages: ClassVar[tuple[str, ...]] = ("onnx", "onnxruntime", "onnxscript")
    extra: ClassVar[str | None] = "onnx"

    def check_path(self, source: ExportSource, path: Path) -> None:  # noqa: ARG002
        """Refuse to replace a model that no encodings lie beside.

        Raises:
            ExportError: names the file.
        """
        beside = path.with_suffix(_MODEL)
        if beside == path or (beside.exists() and not path.exists()):
            raise ExportError(
                f"the model goes to {os.fspath(beside)!r}, which is something else's: choose another name"
            )

    def inexpressible(self, source: ExportSource) -> dict[OperandKey, str]:
        """Return operands without affine codes, and those of tensors that AIMET cannot quantize for them alone."""
        codes = {key: _codes(source, key) for key in source.module.quantizers}
        grids = {
            key: (found.bits, found.scale.item(), found.zero_point.item())
            for key, found in codes.items()
            if not isinstance(found, str) and found.codes is None
        }
        reasons = {key: found for key, found in codes.items() if isinstance(found, str)}
        return reasons | why_not_encoded(source.module.model, grids)

    def write(self, source: ExportSource, path: Path) -> Written:
        """Export the model, and name the tensors of the operands in it."""
        import onnx
        from onnx import helper, numpy_helper

        module = source.module
        model, numbers = export_marked(source, list(module.quantizers))
        tensors: dict[OperandKey, str] = {}
        axes: dict[OperandKey, int] = {}

        def make(key: OperandKey, tensor: str, result: str, transposed: bool) -> list[NodeProto]:
            if key in module.codes:
                value = module.quantizers[key].dequantize(module.codes[key].int()).detach().cpu().numpy()
                axis = module.quantizers[key].layout.channel_axis % value.ndim
                tensor, axes[key] = ".".join(key), value.ndim - 1 - axis if transposed else axis
                value = np.ascontiguousarray(value.T if transposed else value)
                model.graph.initializer.append(numpy_helper.from_array(value, tensor))
            tensors[key] = tensor
            return [helper.make_node("Identity", [tensor], [result])]

        Markers(model, numbers).replace_(make)
        renamed = remove_identities_(model.graph)
        encodings = {}
        for key, tensor in tensors.items():
            place = tensor if key in axes else _quantized_tensor(model, renamed.get(tensor, tensor))
            encodings[place] = {"name": place, **_encoding(source, key, axes.get(key))}
        document = {"version": _VERSION, "encodings": list(encodings.values())}
        path.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
        helper.set_model_props(model, source.metadata)
        onnx.save(model, path.with_suffix(_MODEL))
        return Written()

    def load(self, source: ExportSource, path: Path) -> Runner:  # noqa: ARG002
        """Quantize the tensors of the model as the encodings say, and run it in onnxruntime."""
        import onnx

        model = onnx.load(path.with_suffix(_MODEL))
        quantize_tensors_(model.graph, json.loads(path.read_text(encoding="utf-8"))["encodings"])
        return onnxruntime_runner(model.SerializeToString())


def _codes(source: ExportSource, key: OperandKey) -> AffineCodes | str:
    """Return the codes of an operand, or why AIMET has no encoding of them."""
    codes = centred_codes(source.module, key)
    if isinstance(codes, str):
        return codes
    if codes.bits < 2:
        return "it has one bit"
    return codes if codes.has_zero else "its zero point is outside of its codes"


def _encoding(source: ExportSource, key: OperandKey, axis: int | None) -> dict[str, Any]:
    """Return what AIMET says of a tensor; activations are unsigned, as its converters want them.

    Args:
        source: the model.
        key: an operand that can be expressed.
        axis: of output channels, in a weight.
    """
    codes = _codes(source, key)
    assert not isinstance(codes, str)  # noqa: S101 - see above
    scale, zero_point = codes.scale, codes.zero_point.long()
    if axis is None:
        zero_point = zero_point - codes.least
    is_one = scale.numel() == 1
    encoding: dict[str, Any] = {
        "output_dtype": f"{'u' if axis is None else ''}int{codes.bits}",
        "y_scale": scale.item() if is_one else scale.tolist(),
    }
    if bool(zero_point.any()):
        encoding["y_zero_point"] = zero_point.item() if is_one else zero_point.tolist()
    return encoding if is_one else encoding | {"axis": axis}


def _quantized_tensor(model: ModelProto, tensor: str) -> str:
    """Return the tensor before the views that lead to another, which AIMET quantizes in its place.

    Raises:
        ExportError: ONNX has another graph than torch there, in which there is no such tensor.
    """
    producers = {name: node for node in model.graph.node for name in node.output}
    readers = Counter(name for node in model.graph.node for name in node.input)
    while (node := producers.get(tensor)) is not None and node.op_type in _UNQUANTIZED:
        if readers[node.input[0]] > 1:
            raise ExportError(f"AIMET has no quantizer at {tensor}, which a {node.op_type} returns: use format onnx")
        tensor = node.input[0]
    return tensor
