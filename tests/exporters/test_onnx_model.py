"""Quantized models as ONNX with markers, exported once for all recipes that differ in markers alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from autoq.exporters import ExportSource
from autoq.exporters.onnx_model import export_marked
from tests.exporters.sources import source_of

onnx = pytest.importorskip("onnx")


def made_up() -> Any:
    """A model with one marked weight, one that is read otherwise too, and a bias."""
    helper, array = onnx.helper, onnx.numpy_helper.from_array
    marked = [helper.make_node("Operand", [name], [f"{name}.out"], domain="autoq") for name in ("w", "shared")]
    nodes = [*marked, helper.make_node("Sum", ["w.out", "shared.out", "shared", "bias"], ["y"])]
    values = [array(np.ones(3, np.float32), name) for name in ("w", "shared", "bias")]
    return helper.make_model(helper.make_graph(nodes, "g", [], [], values))


@pytest.fixture
def exports(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Whether the batch was free, of each export; none is known from elsewhere, and none is really made."""
    made: list[bool] = []

    def export(*_: Any, free_batch: bool) -> Any:
        made.append(free_batch)
        return made_up()

    monkeypatch.setattr("autoq.exporters.onnx_model._export", export)
    monkeypatch.setattr("autoq.exporters.onnx_model._exported", {})
    return made


def export(source: ExportSource, left: int = 0, *, free_batch: bool = True) -> Any:
    """Mark all operands but some."""
    return export_marked(source, list(source.module.quantizers)[left:], free_batch=free_batch)


def test_recipes_that_quantize_the_same_operands_are_exported_once(exports: list[bool]) -> None:
    (first, numbers), (second, others) = export(source_of("w8a8")), export(source_of("w4a4"))
    assert exports == [True]
    assert numbers == others
    assert first == second
    assert first is not second, "each is changed by its format"
    assert [each.name for each in first.graph.initializer if each.raw_data] == ["shared", "bias"]


def test_what_makes_another_model(exports: list[bool]) -> None:
    source = source_of("w8a8")
    export(source)
    export(source, free_batch=False)
    export(source_of("linear"))
    with torch.no_grad():
        source.module.model.get_parameter("head.bias").add_(1)
    export(source)
    assert exports == [True, False, True, True]
    export(source_of("w8a8"))
    assert len(exports) == 4, "the last four are kept"


@pytest.mark.parametrize(("case", "left"), [("w8a8", 1), ("mixed", 0), ("published", 0), ("weights", 99)])
def test_what_quantizes_without_a_marker_is_exported_each_time(case: str, left: int, exports: list[bool]) -> None:
    """An ordinary operator, a Hadamard transform, integer operations, or no marker at all."""
    for _ in range(2):
        model, _ = export(source_of(case), left)
    assert len(exports) == 2
    assert all(each.raw_data for each in model.graph.initializer)
