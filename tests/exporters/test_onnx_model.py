"""Quantized models as ONNX with markers, exported once for all recipes that differ in markers alone."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from autoq.exporters import ExportSource
from autoq.exporters.onnx_model import _export, _exported, export_marked
from tests.exporters.sources import source_of

pytest.importorskip("onnxscript")


@pytest.fixture
def exports(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """An entry for every export; none is known from elsewhere."""
    made: list[bool] = []

    def export(*arguments: Any, free_batch: bool) -> Any:
        made.append(free_batch)
        return _export(*arguments, free_batch=free_batch)

    monkeypatch.setattr("autoq.exporters.onnx_model._export", export)
    monkeypatch.setattr("autoq.exporters.onnx_model._exported", {})
    return made


def export(source: ExportSource, *, free_batch: bool = True) -> Any:
    return export_marked(source, list(source.module.quantizers), free_batch=free_batch)


def test_recipes_that_quantize_the_same_operands_are_exported_once(exports: list[bool]) -> None:
    (first, numbers), (second, others) = export(source_of("w8a8")), export(source_of("w4a4"))
    assert exports == [True]
    assert numbers == others
    assert first == second
    assert first is not second, "each is changed by its format"
    weights = {f"{site}:{operand}" for site, operand in source_of("w8a8").module.codes}
    emptied = [each for each in first.graph.initializer if not each.raw_data and 0 not in each.dims]
    assert len(emptied) == len(weights)
    export(source_of("w8a8"), free_batch=False)
    assert exports == [True, False], "for one image is another model"


def test_other_values_of_what_is_not_marked_are_another_model(exports: list[bool]) -> None:
    source = source_of("w8a8")
    before, _ = export(source)
    with torch.no_grad():
        source.module.model.get_parameter("head.bias").add_(1)
    after, _ = export(source)
    assert exports == [True, True]
    assert before != after


def test_operands_that_are_ordinary_operators_are_exported_each_time() -> None:
    source = source_of("weights")
    known = dict(_exported)
    quantizers = list(source.module.quantizers)
    export_marked(source, quantizers[1:])
    assert _exported == known
