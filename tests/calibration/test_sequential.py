"""Calibration site after site, behind what is quantized already."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from autoq.calibration import CalibrationSettings
from autoq.calibration.sequential import solve_in_order
from autoq.errors import CalibrationError, RecipeError
from autoq.graph.insert import QuantizedModel
from autoq.quantizers import BaseQuantizer
from autoq.recipe import OperandConfig, SiteConfig
from tests.graph.small import traced

SETTINGS = CalibrationSettings(observer="min_max", inputs="quantized")
BOTH: SiteConfig = {
    "input": OperandConfig(scheme="uniform", bits=3),
    "weight": OperandConfig(scheme="uniform", bits=2, granularity="channel"),
}


class Residual(nn.Module):
    """Two stages, two sites in each."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.layers = nn.ModuleList(nn.Linear(6, 6) for _ in range(4))
        for parameter in self.parameters():
            parameter.data = torch.randn(parameter.shape, generator=generator)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.layers[1](self.layers[0](x))
        return x + self.layers[3](self.layers[2](x).relu())


def images(count: int = 5, seed: int = 1) -> Tensor:
    return torch.randn(count, 6, generator=torch.Generator().manual_seed(seed))


def solved(
    batches: list[Tensor], known: dict[tuple[str, str], BaseQuantizer] | None = None
) -> dict[str, dict[str, BaseQuantizer]]:
    model = QuantizedModel(traced(Residual(), images()))
    found = dict(solve_in_order(model, batches, {f"layers.{i}": BOTH for i in range(4)}, SETTINGS, known))
    assert all(slot.quantizer is None for slot in model.slots.values())
    return found


def affine(x: Tensor, low: Tensor, high: Tensor, bits: int) -> Tensor:
    low, high = low.clamp(max=0), high.clamp(min=0)
    scale = (high - low) / (2**bits - 1)
    zero = torch.round(-low / scale)
    return ((torch.round(x / scale) + zero).clamp(0, 2**bits - 1) - zero) * scale


@torch.no_grad()
def test_each_input_is_observed_behind_the_quantizers_before_it() -> None:
    module, x = Residual(), images()
    found = solved([x[:2], x[2:]])
    assert list(found) == [f"layers.{i}" for i in range(4)]
    streams = [x, None, None, None]

    def layer(index: int, x: Tensor) -> Tensor:
        streams[index] = x
        weight = module.layers[index].weight
        quantized = affine(weight, weight.amin(1, keepdim=True), weight.amax(1, keepdim=True), 2)
        return nn.functional.linear(affine(x, x.min(), x.max(), 3), quantized, module.layers[index].bias)

    x = x + layer(1, layer(0, x))
    x = x + layer(3, layer(2, x).relu())
    for index, seen in enumerate(streams):
        assert seen is not None
        quantizer = found[f"layers.{index}"]["input"]
        torch.testing.assert_close(quantizer(seen), affine(seen, seen.min(), seen.max(), 3))
    full = dict(solve_in_order(QuantizedModel(traced(module, images())), [images()], {"layers.3": BOTH}, SETTINGS))
    assert not torch.equal(full["layers.3"]["input"].qparams()["scale"], found["layers.3"]["input"].qparams()["scale"])


def test_known_quantizers_are_taken() -> None:
    known = {("layers.0", "input"): solved([images(3, seed=9)])["layers.0"]["input"]}
    found = solved([images()], known)
    assert found["layers.0"]["input"] is known["layers.0", "input"]
    other = solved([images()])["layers.1"]["input"].qparams()["scale"]
    assert not torch.equal(found["layers.1"]["input"].qparams()["scale"], other)


def test_progress_and_refusals() -> None:
    model = QuantizedModel(traced(Residual(), images()))
    counts: list[int] = []
    list(solve_in_order(model, [images(2), images(3)], {"layers.1": BOTH}, SETTINGS, progress=counts.append))
    assert counts == [2, 3]
    with pytest.raises(CalibrationError, match="no calibration images"):
        list(solve_in_order(model, [], {"layers.1": BOTH}, SETTINGS))
    with pytest.raises(RecipeError, match="no site 'layer'"):
        list(solve_in_order(model, [images()], {"layer": BOTH}, SETTINGS))
    with pytest.raises(CalibrationError, match=r"layers\.1:input has NaN or infinite values behind quantized sites"):
        list(solve_in_order(model, [images() * torch.inf], {"layers.1": BOTH}, SETTINGS))
    assert all(slot.quantizer is None for slot in model.slots.values())


def test_an_interrupted_pass_leaves_the_model_empty() -> None:
    model = QuantizedModel(traced(Residual(), images()))
    solving = solve_in_order(model, [images()], {f"layers.{i}": BOTH for i in range(4)}, replace(SETTINGS, seed=1))
    next(solving)
    solving.close()  # type: ignore[attr-defined]
    assert all(slot.quantizer is None for slot in model.slots.values())
