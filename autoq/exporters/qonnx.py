"""QONNX: integers of any width, for FINN and hls4ml."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from autoq.exporters._base import BaseExporter, ExportSource, Runner, Written
from autoq.exporters.onnx_model import Markers, export_marked
from autoq.graph.insert import OperandKey
from autoq.quantizers import BaseQuantizer, UniformQuantizer

if TYPE_CHECKING:
    from onnx import NodeProto

_DOMAIN = "qonnx.custom_op.general"


class QonnxExporter(BaseExporter):
    """Writes ONNX with a ``Quant`` node on every quantized operand, for one image.

    ``qonnx.util.inference_cost.inference_cost(path, discount_sparsity=False)`` counts the bit operations of the recipe.
    """

    name: ClassVar[str] = "qonnx"
    suffix: ClassVar[str] = ".onnx"
    reader: ClassVar[str] = "qonnx, FINN, hls4ml"
    expresses: ClassVar[str] = "uniform operands of 2 to 16 bits, symmetric or from zero up (space fpga_2-8)"
    loses: ClassVar[str] = "batches: one image at a time"
    packages: ClassVar[tuple[str, ...]] = ("onnx", "onnxscript", "qonnx")
    extra: ClassVar[str | None] = "qonnx"
    most_checked: ClassVar[int | None] = 8

    def inexpressible(self, source: ExportSource) -> dict[OperandKey, str]:
        """Return operands that are not uniform around zero or from zero up."""
        found = {key: _objection(quantizer) for key, quantizer in source.module.quantizers.items()}
        return {key: reason for key, reason in found.items() if reason is not None}

    def write(self, source: ExportSource, path: Path) -> Written:
        """Export the model with markers, and put ``Quant`` nodes in their places."""
        import onnx
        from onnx import helper, numpy_helper

        module = source.module
        model, numbers = export_marked(source, list(module.quantizers), free_batch=False)

        def constant(name: str, value: Tensor) -> str:
            array = np.ascontiguousarray(value.numpy().astype(np.float32)).reshape(value.shape)
            model.graph.initializer.append(numpy_helper.from_array(array, name))
            return name

        def make(key: OperandKey, tensor: str, result: str, transposed: bool) -> list[NodeProto]:
            name, quantizer = ":".join(key), module.quantizers[key]
            scale, signed = quantizer.qparams()["scale"].cpu(), _is_signed(quantizer)
            if key in module.codes:
                value = quantizer.dequantize(module.codes[key].int()).detach().cpu()
                tensor = constant(f"{name}.values", value.T if transposed else value)
            scale = scale.T if transposed else scale
            inputs = [
                tensor,
                constant(f"{name}.scale", scale.reshape(()) if scale.numel() == 1 else scale),
                constant(f"{name}.zero_point", torch.tensor(0.0)),
                constant(f"{name}.bits", torch.tensor(float(quantizer.config.bits))),
            ]
            settings: dict[str, Any] = {"signed": int(signed), "narrow": 0, "rounding_mode": "ROUND"}
            return [helper.make_node("Quant", inputs, [result], name=f"{name}.Quant", domain=_DOMAIN, **settings)]

        Markers(model, numbers).replace_(make)
        model.opset_import.append(helper.make_opsetid(_DOMAIN, 1))
        helper.set_model_props(model, source.metadata)
        onnx.save(model, path)
        return Written()

    def load(self, source: ExportSource, path: Path) -> Runner:  # noqa: ARG002
        """Open it with qonnx's own interpreter, which is slow: it runs node by node, one image at a time."""
        from qonnx.core.modelwrapper import ModelWrapper
        from qonnx.core.onnx_exec import execute_onnx
        from qonnx.transformation.infer_shapes import InferShapes

        model = ModelWrapper(str(path)).transform(InferShapes())
        entry, outputs = model.graph.input[0].name, [value.name for value in model.graph.output]

        def run(images: Tensor) -> list[Tensor]:
            answers = [execute_onnx(model, {entry: image[None].numpy()}) for image in images]
            return [torch.cat([torch.from_numpy(answer[name]) for answer in answers]) for name in outputs]

        return run


def _objection(quantizer: BaseQuantizer) -> str | None:
    config = quantizer.config
    if type(quantizer) is not UniformQuantizer:
        return "it is not uniform"
    if config.granularity == "group" and quantizer.scale.numel() > 1:
        return "it has one scale a group"
    if config.bits < 2:
        return "it has one bit"
    if not (_is_signed(quantizer) or bool((quantizer.zero_point == 0).all())):
        return "its zero point is not 0, and FINN has none: use space fpga_2-8, or symmetric = true"
    return None


def _is_signed(quantizer: BaseQuantizer) -> bool:
    """Whether codes lie around the zero point, 2^(bits − 1); else they begin with it."""
    return bool((quantizer.qparams()["zero_point"] == 2 ** (quantizer.config.bits - 1)).all())
