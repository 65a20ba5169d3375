"""The tensors that a model returns have names, and come back in the structure of the original."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from autoq.errors import TraceError
from autoq.graph.insert import QuantizedModel
from autoq.graph.trace import trace
from tests.graph.small import Structured, tokens, traced


class Halve(nn.Module):
    """Stands for a quantizer."""

    def forward(self, x: Tensor) -> Tensor:
        return x / 2


class Pair(NamedTuple):
    left: Tensor
    right: Tensor


STRUCTURES: dict[str, tuple[Callable[[Tensor], object], tuple[str, ...]]] = {
    "tensor": (lambda y: y, ("",)),
    "tuple of one": (lambda y: (y,), ("0",)),
    "tuple": (lambda y: (y, y.sum(1)), ("0", "1")),
    "list": (lambda y: [y.sum(1), y], ("0", "1")),
    "named tuple": (lambda y: Pair(y, y.sum(1)), ("left", "right")),
    "dict": (lambda y: {"logits": y, "aux": (y.sum(1), y.mean(1))}, ("logits", "aux.0", "aux.1")),
    "ordered dict": (lambda y: OrderedDict(out=y, aux={"deep": [y.sum(1)]}), ("out", "aux.deep.0")),
    "nothing": (lambda y: {"loss": None, "logits": y, "two": (None, y.sum(1))}, ("logits", "two.1")),
    "numbers": (lambda y: {"count": 3, "batch": y.shape[0], "logits": y}, ("logits",)),
    "one tensor twice": (lambda y: [y, y], ("0", "1")),
}


def check(module: nn.Module, batch: Tensor, names: tuple[str, ...]) -> None:
    model = QuantizedModel(traced(module, batch))
    assert model.output_names == model.traced.output_names == names
    with torch.no_grad():
        expected, actual, outputs = module(batch), model(batch), model.run(batch)
    assert type(actual) is type(expected)
    expected_leaves, expected_spec = pytree.tree_flatten(expected)
    actual_leaves, actual_spec = pytree.tree_flatten(actual)
    assert actual_spec == expected_spec
    assert len(outputs) == len(names)
    tensors = iter(outputs)
    for a, b in zip(actual_leaves, expected_leaves, strict=True):
        assert torch.equal(a, b) and torch.equal(next(tensors), b) if isinstance(b, Tensor) else a == b


@pytest.mark.parametrize("structure", STRUCTURES)
def test_outputs_are_named_by_their_place_and_keep_their_structure(structure: str) -> None:
    arrange, names = STRUCTURES[structure]
    check(Structured(arrange), tokens(3), names)


@pytest.mark.parametrize("structure", STRUCTURES)
def test_each_output_is_a_site(structure: str) -> None:
    """It costs nothing, and rounds one output where the same tensor is returned twice."""
    arrange, names = STRUCTURES[structure]
    model = QuantizedModel(traced(Structured(arrange), tokens(3)))
    sites = [site for site in model.traced.sites if site.op == "output"]
    assert [site.name for site in sites] == [f"output.{name}" if name else "output" for name in names]
    assert [(site.macs, [operand.name for operand in site.operands]) for site in sites] == [(0, ["input"])] * len(sites)
    before = model.run(tokens(3))
    for index, site in enumerate(sites):
        assert sites[index].operands[0].shape == (1, *before[index].shape[1:])
        model.insert_({(site.name, "input"): Halve()})
        expected = [leaf / 2 if other == index else leaf for other, leaf in enumerate(before)]
        assert all(map(torch.equal, model.run(tokens(3)), expected))
        model.remove_()


def test_outputs_of_other_types_and_of_parameters_are_no_sites() -> None:
    def arrange(y: Tensor) -> object:
        return {"classes": y.argmax(-1), "found": y > 0, "scale": torch.ones(3), "logits": y}

    found = traced(Structured(arrange), tokens(3))
    assert list(found.sites_by_name) == ["layer", "output.logits"]


def test_channels_of_a_map_are_those_of_its_layer() -> None:
    maps = trace(nn.Conv2d(3, 5, 1).eval(), torch.zeros(2, 3, 4, 6))
    assert maps.sites_by_name["output"].operand("input").layout.channel_axis == -3


def test_dataclasses_need_not_be_registered() -> None:
    @dataclass
    class Box:
        corners: Tensor

    @dataclass
    class Detections:
        logits: Tensor
        boxes: list[Box]
        loss: Tensor | None = None

    module = Structured(lambda y: Detections(y, [Box(y.sum(1))]))
    model = QuantizedModel(traced(module))
    assert model.output_names == ("logits", "boxes.0.corners")
    actual = model(tokens(3))
    assert isinstance(actual, Detections)
    assert isinstance(actual.boxes[0], Box)
    assert actual.loss is None
    assert torch.equal(actual.boxes[0].corners, module.layer(tokens(3)).sum(1))


def test_outputs_that_hold_something_else_are_refused_by_type() -> None:
    class Opaque:
        def __init__(self, y: Tensor) -> None:
            self.y = y

    with pytest.raises(TraceError, match=r"^cannot trace Structured: it returns a .*Opaque; return tensors, or tuples"):
        traced(Structured(Opaque))


def test_outputs_of_transformers_are_named_by_field() -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.ViTConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, image_size=16, patch_size=8,
        output_hidden_states=True, attn_implementation="eager",
    )  # fmt: skip
    images = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    check(transformers.ViTForImageClassification(config), images, ("logits", "hidden_states.0", "hidden_states.1"))
