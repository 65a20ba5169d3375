"""Quantized residual sums and embeddings of positions in every format: held or refused by name."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from autoq.calibration import Bank, CalibrationSettings
from autoq.errors import ExportError
from autoq.exporters import EXPORTERS, Architecture, ExportSource, write_export
from autoq.graph.insert import QuantizedModel
from autoq.graph.trace import trace
from autoq.recipe import ModelReference, OperandConfig, Recipe, SiteConfig
from autoq.scoring.quantized_module import QuantizedModule
from autoq.scoring.solved_operands import SolvedOperands
from tests.api.models import IMAGES, HandWritten

HELD = ("onnx", "onnx-int4", "pt2", "aimet")
REFUSED = ("torchao", "compressed-tensors", "qonnx")
RESULT = {"add:lhs", "add:rhs", "add@2:lhs", "add@2:rhs", "add@3:lhs", "add@3:rhs"}


class Positioned(HandWritten):
    """Adds an embedding of positions to the tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.positions = nn.Parameter(torch.randn(1, 4, 16))

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        tokens = self.embed(x).flatten(2).transpose(1, 2) + self.positions
        tokens = tokens + self.proj(self.norm1(tokens))
        tokens = tokens + self.fc2(nn.functional.gelu(self.fc1(self.norm2(tokens))))
        return {"logits": self.head(tokens.mean(1))}


@cache
def model() -> tuple[nn.Module, QuantizedModel]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = Positioned().eval()
    return module, QuantizedModel(trace(module, IMAGES[:2]))


@cache
def source() -> ExportSource:
    """Everything at 8 bits, sums and inputs of LayerNorms too."""
    module, quantized = model()
    sites: dict[str, SiteConfig] = {}
    for site in quantized.traced.sites:
        for operand in site.operands:
            granularity = "channel" if operand.name == "weight" else "tensor"
            config = OperandConfig(scheme="uniform", bits=8, granularity=granularity)
            sites.setdefault(site.name, {})[operand.name] = config
    recipe = Recipe(model=ModelReference(name="positioned", weights_sha256="0" * 64), sites=sites)
    operands = SolvedOperands.from_bank(Bank(quantized, IMAGES, CalibrationSettings(), {}), sites)
    return ExportSource(
        recipe,
        lambda: QuantizedModule(quantized.traced, operands, recipe, preprocessing={}),
        lambda: IMAGES,
        None,
        lambda: Architecture(module, quantized.traced),
    )


def test_what_is_added_is_rounded() -> None:
    sums = {f"{site}:{operand}" for site, operand in source().module.quantizers if site.startswith("add")}
    assert sums == RESULT
    assert ("add", "rhs") in source().module.codes, "an embedding of positions is kept as codes"
    left = source().module.without([("add@2", "lhs")])
    with torch.no_grad():
        assert not torch.equal(left(IMAGES)["logits"], source().module(IMAGES)["logits"])


@pytest.mark.parametrize("name", HELD)
def test_formats_that_hold_them(name: str, tmp_path: Path) -> None:
    exporter = EXPORTERS[name]()
    report = write_export(exporter, source(), tmp_path / f"quantized{exporter.suffix}")
    assert report.left_in_float == ()
    assert report.agreement is not None
    assert report.agreement.agreement_percent == 100
    assert report.agreement.mean_difference <= 0.02 * report.agreement.mean_magnitude
    if name == "onnx":
        assert _operands_of_sums(report.path) == 6


def _operands_of_sums(path: Path) -> int:
    """Count operands of Add nodes that DequantizeLinear gives, of sums of two tensors."""
    import onnx

    graph = onnx.load(path).graph
    made = {name: node.op_type for node in graph.node for name in node.output}
    pairs = [[made.get(name) for name in node.input] for node in graph.node if node.op_type == "Add"]
    return sum(pair.count("DequantizeLinear") for pair in pairs if pair.count("DequantizeLinear") == 2)


@pytest.mark.parametrize("name", REFUSED)
def test_formats_that_hold_none_name_them(name: str, tmp_path: Path) -> None:
    exporter = EXPORTERS[name]()
    exporter.require_packages()
    found = exporter.inexpressible(source())
    assert {f"{site}:{operand}" for site, operand in found} & RESULT
    with pytest.raises(ExportError, match=r"cannot hold .*add"):
        write_export(exporter, source(), tmp_path / f"quantized{exporter.suffix}")
    assert not list(tmp_path.iterdir())
