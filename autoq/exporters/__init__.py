"""Quantized models as files of other formats, each of which is run after it was written.

To add a format, write a subclass of ``BaseExporter`` in a file of its own and add it to ``EXPORTERS``.
"""

from __future__ import annotations

from autoq.errors import ExportError
from autoq.exporters._base import BaseExporter, ExportSource, Written
from autoq.exporters.aimet import AimetExporter
from autoq.exporters.architecture import Architecture
from autoq.exporters.bundle import BundleExporter
from autoq.exporters.checking import Agreement
from autoq.exporters.compressed_tensors_folder import CompressedTensorsExporter
from autoq.exporters.onnx_int4 import OnnxInt4Exporter
from autoq.exporters.onnx_qcdq import OnnxExporter
from autoq.exporters.pick import VERSIONS, Picked, pick, pick_recipe
from autoq.exporters.pt2 import Pt2Exporter
from autoq.exporters.qonnx import QonnxExporter
from autoq.exporters.recipe_json import RecipeExporter
from autoq.exporters.tables import CsvExporter, MarkdownExporter
from autoq.exporters.torch_folder import TorchExporter, load_quantized
from autoq.exporters.torchao_weights import TorchaoExporter
from autoq.exporters.writing import ExportReport, write_export
from autoq.registry import Registry

EXPORTERS: Registry[type[BaseExporter]] = Registry(
    "format",
    ExportError,
    {
        cls.name: cls
        for cls in (
            RecipeExporter,
            BundleExporter,
            Pt2Exporter,
            TorchExporter,
            OnnxExporter,
            OnnxInt4Exporter,
            QonnxExporter,
            TorchaoExporter,
            CompressedTensorsExporter,
            AimetExporter,
            CsvExporter,
            MarkdownExporter,
        )
    },
)
"""``--format`` to the class that writes it."""

__all__ = [
    "EXPORTERS",
    "VERSIONS",
    "Agreement",
    "Architecture",
    "BaseExporter",
    "ExportReport",
    "ExportSource",
    "OnnxExporter",
    "Picked",
    "RecipeExporter",
    "Written",
    "load_quantized",
    "pick",
    "pick_recipe",
    "write_export",
]
