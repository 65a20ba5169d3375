"""``torch.export`` programs: run by PyTorch alone."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import torch

from autoq.exporters._base import BaseExporter, ExportSource, Runner, Written, tensors_of
from autoq.exporters.graphs import CodedWeight, TracedByPosition, quantized_weights


class Pt2Exporter(BaseExporter):
    """Writes the program of the quantized model, weights as codes of a byte each, with a free batch size.

    Extra files of the archive are ``recipe.json``, ``preprocessing.json`` and ``autoq_version``.
    """

    name: ClassVar[str] = "pt2"
    suffix: ClassVar[str] = ".pt2"
    reader: ClassVar[str] = "torch.export.load(file).module(), without autoq"
    expresses: ClassVar[str] = "every recipe, with autoq's own arithmetic"
    loses: ClassVar[str] = "speed: products are in floating point"

    def write(self, source: ExportSource, path: Path) -> Written:
        """Export the program and save it."""
        weights = {key: CodedWeight(weight) for key, weight in quantized_weights(source.module).items()}
        # Without gradients, for which quantizers have a form of their own, and which the program's operators lack.
        traced = TracedByPosition(source.module, weights).eval().requires_grad_(requires_grad=False)
        with torch.no_grad():
            program = torch.export.export(
                traced,
                (source.images[:1].repeat(2, *[1] * (source.images.ndim - 1)),),
                dynamic_shapes={"x": {0: torch.export.Dim("batch")}},
            )
        for node in program.graph.nodes:
            node.meta.pop("stack_trace", None)  # paths of this machine
        torch.export.save(program, path, extra_files=source.metadata)
        return Written()

    def load(self, source: ExportSource, path: Path) -> Runner:  # noqa: ARG002
        """Load the program."""
        model = torch.export.load(path).module()
        return lambda images: tensors_of(model(images))
