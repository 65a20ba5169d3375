"""Tests trace a model once, unless anything of it has changed."""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from autoq.graph.trace import TracedModel, trace
from autoq.runs.session import Session
from tests import known_traces
from tests.known_traces import trace_known

EXAMPLE = torch.zeros(2, 4)


class Kind(Enum):
    PLAIN = 1
    SQUARED = 2


class Description:
    """What is no module and says how one computes."""

    def __init__(self, factor: float) -> None:
        self.factors = {"by": [factor]}


class Model(nn.Module):
    """Reads attributes of several types while it is traced."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.last = nn.Linear(4, 4), nn.Linear(4, 3)
        self.register_buffer("shift", torch.ones(4), persistent=False)
        self.offsets = [torch.ones(4)]
        self.kind, self.described, self.power = Kind.PLAIN, Description(2.0), partial(torch.pow, exponent=2)
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x) * self.described.factors["by"][0] + self.shift - self.offsets[0]
        return self.last(self.power(x) if self.kind is Kind.SQUARED else x)


@pytest.fixture
def traced(monkeypatch: pytest.MonkeyPatch) -> list[nn.Module]:
    """What is traced and not taken over."""
    found: list[nn.Module] = []

    def spy(module: nn.Module, example: Tensor) -> TracedModel:
        found.append(module)
        return trace(module, example)

    monkeypatch.setattr(known_traces, "trace", spy)
    monkeypatch.setattr(known_traces, "_known", type(known_traces._known)())
    return found


def nodes(model: TracedModel) -> list[str]:
    return [f"{node.name} {node.op} {node.target} {node.args}" for node in model.graph_module.graph.nodes]


def test_an_equal_module_is_traced_once(traced: list[nn.Module]) -> None:
    modules = [Model(), Model()]
    first, second = (trace_known(module, EXAMPLE) for module in modules)
    assert traced == modules[:1]
    assert nodes(first) == nodes(second)
    assert (first.sites, first.edges, first.uncounted) == (second.sites, second.edges, second.uncounted)
    assert second.weight("last").data_ptr() == modules[1].last.weight.data_ptr(), "on its own parameters"
    assert torch.equal(second.graph_module(EXAMPLE + 1), modules[1](EXAMPLE + 1))


def _overwrite(module: Model) -> None:
    with torch.no_grad():
        module.last.weight[0, 0] += 1


CHANGES: dict[str, Callable[[Model], object]] = {
    "a weight": _overwrite,
    "a buffer that is not saved": lambda module: module.shift.add_(1),
    "a tensor that is no buffer": lambda module: module.offsets[0].add_(1),
    "an attribute": lambda module: setattr(module, "kind", Kind.SQUARED),
    "an attribute of an attribute": lambda module: module.described.factors["by"].append(1.0),
    "an argument of a partial": lambda module: setattr(module, "power", partial(torch.pow, exponent=3)),
    "a part": lambda module: setattr(module, "last", nn.Identity().eval()),
    "its forward": lambda module: setattr(module, "forward", partial(Model.forward, module)),
    "a hook": lambda module: module.first.register_forward_hook(lambda *_: None),
    "what cannot be compared": lambda module: setattr(module, "generator", torch.Generator()),
}


@pytest.mark.parametrize("change", CHANGES)
def test_one_that_has_changed_is_traced(change: str, traced: list[nn.Module]) -> None:
    trace_known(Model(), EXAMPLE)
    changed = Model()
    CHANGES[change](changed)
    found = trace_known(changed, EXAMPLE)
    assert traced[1:] == [changed]
    assert torch.equal(found.graph_module(EXAMPLE + 1), changed(EXAMPLE + 1))


def test_so_is_one_of_a_class_whose_methods_were_replaced(
    traced: list[nn.Module], monkeypatch: pytest.MonkeyPatch
) -> None:
    trace_known(Model(), EXAMPLE)
    monkeypatch.setattr(Model, "forward", lambda self, x: self.last(self.first(x)))
    assert list(trace_known(Model(), EXAMPLE).sites_by_name) == ["first", "last", "output"]
    assert len(traced) == 2


def test_another_input_is_traced(traced: list[nn.Module]) -> None:
    for example in (EXAMPLE, EXAMPLE[:, None], EXAMPLE.double()):
        trace_known(Model().to(example.dtype), example)
    assert len(traced) == 3


FACTOR = 1.0


class Global(Model):
    """Reads a global variable."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * FACTOR


def test_what_is_taken_over_is_verified(traced: list[nn.Module], monkeypatch: pytest.MonkeyPatch) -> None:
    trace_known(Global(), EXAMPLE)
    monkeypatch.setitem(globals(), "FACTOR", 2.0)
    found, module = trace_known(Global(), EXAMPLE), Global()
    assert len(traced) == 2, "another answer than the trace gives"
    assert torch.equal(found.graph_module(EXAMPLE + 1), module(EXAMPLE + 1))


def test_the_latest_are_kept(traced: list[nn.Module], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(known_traces, "_MOST", 2)
    for width in (1, 2, 1, 3, 1, 2):
        trace_known(nn.Linear(4, width).eval().requires_grad_(False).apply(_zero), EXAMPLE)
    assert [module.out_features for module in traced] == [1, 2, 3, 2]


def _zero(module: nn.Module) -> None:
    for value in module.parameters():
        value.zero_()


def test_a_bundled_model_is_opened_again(traced: list[nn.Module]) -> None:
    first, second = (Session.open("vit_digits", device="cpu") for _ in range(2))
    assert len(traced) == 1
    assert nodes(first.traced) == nodes(second.traced)
    assert first.loaded.module is not second.loaded.module
