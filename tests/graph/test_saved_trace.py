"""Traces as bytes: what is the model's, what is kept, what cannot be written down; ``test_zoo`` has many models."""

from __future__ import annotations

import pickle
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

from autoq.errors import TraceError
from autoq.graph.insert import QuantizedModel
from autoq.graph.saved_trace import dump_traced, load_traced
from tests.graph.small import Structured, Weighted, tokens, traced


@dataclass
class Box:
    corners: Tensor


@dataclass
class Detections:
    logits: Tensor
    boxes: list[Box]
    loss: Tensor | None = None


class Written(Weighted):
    """Overwrites a part of a tensor, adds what follows from a buffer alone, and makes a tensor on its device."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("table", torch.arange(8.0))

    def forward(self, x: Tensor) -> Tensor:
        y = self.layer(x)
        y[:, 0] = 1.0
        mask = torch.ones(6, 1, device=x.device)
        return y * mask + self.table.exp().roll(1)


def test_parameters_are_the_models_and_folded_constants_are_kept() -> None:
    module = Written()
    model = traced(module)
    content = dump_traced(model, module)
    other = Written()
    with torch.no_grad():
        other.layer.weight.copy_(2 * module.layer.weight)
    loaded = load_traced(content, other)
    assert loaded.weight("layer").data_ptr() == other.layer.weight.data_ptr()
    expected = traced(other).graph_module(tokens(3))
    assert torch.equal(loaded.graph_module(tokens(3)), expected)
    assert not torch.equal(model.graph_module(tokens(3)), expected)
    assert dump_traced(traced(module), module) == content, "a driver that resumes leaves the same file"
    wide = nn.Linear(2000, 2000)
    assert len(dump_traced(traced(wide, torch.zeros(2, 2000)), wide)) < 20_000, "no weights"


def test_a_trace_runs_where_the_module_is() -> None:
    """Constants, and tensors that the graph makes, are where the module is, as if it had been traced there."""
    module = Written()
    moved = Written().to("meta")
    loaded = load_traced(dump_traced(traced(module), module), moved)
    assert loaded.graph_module(tokens(3).to("meta")).device.type == "meta"
    devices = {node.meta["val"].device.type for node in loaded.graph_module.graph.nodes if "val" in node.meta}
    assert devices == {"meta"}


def test_dataclasses_in_the_output_are_made_known(monkeypatch: pytest.MonkeyPatch) -> None:
    module = Structured(lambda y: Detections(y, [Box(y.sum(1))]))
    model = traced(module)
    content = dump_traced(model, module)
    known: list[type] = []
    monkeypatch.setattr("autoq.graph.saved_trace.register_dataclass", known.append)
    loaded = QuantizedModel(load_traced(content, module))
    assert set(known) == {Box, Detections}, "by a process that has not traced"
    actual = loaded(tokens(3))
    assert isinstance(actual, Detections)
    assert isinstance(actual.boxes[0], Box)
    assert torch.equal(actual.boxes[0].corners, module.layer(tokens(3)).sum(1))


def test_classes_that_cannot_be_imported_are_refused() -> None:
    @dataclass
    class Local:
        logits: Tensor

    module = Structured(Local)
    with pytest.raises(TraceError, match=r"trace of Structured cannot be given .*Local.*; define the classes"):
        dump_traced(traced(module), module)


def test_another_model_is_refused() -> None:
    module = Weighted()
    module.forward = module.layer.forward  # type: ignore[method-assign]
    content = dump_traced(traced(module), module)
    with pytest.raises(TraceError, match=r"Linear has no 'layer\.\w+', which its trace reads: it is not the model"):
        load_traced(content, nn.Linear(8, 8))


def test_half_a_file_is_none() -> None:
    module = nn.Linear(8, 8)
    content = dump_traced(traced(module), module)
    with pytest.raises((pickle.UnpicklingError, EOFError)):
        load_traced(content[: len(content) // 2], module)
