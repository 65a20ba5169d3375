"""Queries, keys and values with the range of the layer that makes them; against the formulas of FQ-ViT's observers."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from autoq.calibration import Bank, CalibrationSettings
from autoq.calibration.sequential import solve_in_order
from autoq.calibration.shared_ranges import find_shared
from autoq.graph.insert import QuantizedModel
from autoq.graph.trace import trace
from autoq.quantizers import BaseQuantizer
from autoq.recipe import OperandConfig, SiteConfig

BITS = 4
SETTINGS = CalibrationSettings(
    observer="min_max", batch_images=4, sample_last_batch=True, sample_elements=1 << 40, shares_ranges=True
)
IMAGES = torch.randn(11, 5, 12, generator=torch.Generator().manual_seed(0))
IMAGES[3] *= 4  # the greatest values are not in the last batch, of three images
PARTS = (("qk", "lhs"), ("qk", "rhs"), ("av", "rhs"))


class Attention(nn.Module):
    """Two heads of six channels behind one layer, with a residual sum before a LayerNorm."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.proj, self.norm, self.last = (
            nn.Linear(12, 36),
            nn.Linear(12, 12),
            nn.LayerNorm(12),
            nn.Linear(12, 3),
        )
        self.other = nn.Linear(12, 12)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).reshape(x.shape[0], 5, 3, 2, 6).permute(2, 0, 3, 1, 4).unbind(0)
        attention = ((q * 6**-0.5) @ k.transpose(-2, -1)).softmax(-1)
        x = x + self.proj((attention @ v).transpose(1, 2).flatten(2))
        return self.last(self.norm(x))  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def module() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Attention().eval()


@pytest.fixture(scope="module")
def model(module: nn.Module) -> QuantizedModel:
    return QuantizedModel(trace(module, IMAGES[:2]))


def solve(model: QuantizedModel, settings: CalibrationSettings, scheme: str = "uniform") -> dict[str, BaseQuantizer]:
    config = OperandConfig(scheme=scheme, bits=BITS)
    keys = [("norm", "input"), ("add", "lhs")] if scheme == "power_of_two_factor" else list(PARTS)
    bank = Bank(model, IMAGES, settings, {})
    bank.solve_all([(site, operand, config) for site, operand in keys])
    return {f"{site}:{operand}": bank.quantizer(site, operand, config) for site, operand in keys}


def test_parts_of_a_layer_are_found_with_their_factors(model: QuantizedModel) -> None:
    (found,) = find_shared(model.traced).values()
    assert found == {("qk", "lhs"): pytest.approx(6**-0.5), ("qk", "rhs"): 1.0, ("av", "rhs"): 1.0}


def test_ranges_are_those_of_the_layer_s_output(module: Attention, model: QuantizedModel) -> None:
    with torch.no_grad():
        whole = module.qkv(IMAGES)
    scale, zero_point = affine(whole.min(), whole.max())
    found = solve(model, SETTINGS)
    for name, factor in (("qk:lhs", 6**-0.5), ("qk:rhs", 1.0), ("av:rhs", 1.0)):
        torch.testing.assert_close(found[name].qparams()["scale"].reshape(()), scale * factor)
        assert float(found[name].qparams()["zero_point"]) == float(zero_point)
    apart = solve(model, replace(SETTINGS, shares_ranges=False))
    assert len({float(each.qparams()["scale"]) for each in apart.values()}) == 3


def test_averages_are_of_the_layer_s_quantiles_batch_by_batch(module: Attention, model: QuantizedModel) -> None:
    lower = upper = None
    for batch in torch.split(IMAGES, 4):
        with torch.no_grad():
            values = module.qkv(batch).flatten()
        low, high = torch.quantile(values, 0.02), torch.quantile(values, 0.98)
        lower = low if lower is None else lower + 0.1 * (low - lower)
        upper = high if upper is None else upper + 0.1 * (high - upper)
    assert lower is not None
    assert upper is not None
    scale, zero_point = affine(lower, upper)
    settings = replace(SETTINGS, observer="percentile", percentile=98.0, averaging_constant=0.1)
    found = solve(model, settings)["qk:rhs"].qparams()
    torch.testing.assert_close(found["scale"].reshape(()), scale)
    assert float(found["zero_point"]) == float(zero_point)


def test_omse_shrinks_the_range_by_the_error_on_the_last_batch(module: Attention, model: QuantizedModel) -> None:
    with torch.no_grad():
        whole, last = module.qkv(IMAGES), module.qkv(IMAGES[8:])
    best, chosen = math.inf, None
    for step in range(90):
        scale, zero_point = affine(whole.min() * (1 - step / 100), whole.max() * (1 - step / 100))
        error = float((fake_quantize(last, scale, zero_point) - last).square().sum())
        if error < best:
            best, chosen = error, scale
    assert chosen is not None
    found = solve(model, replace(SETTINGS, observer="omse"))
    torch.testing.assert_close(found["qk:rhs"].qparams()["scale"].reshape(()), chosen)
    torch.testing.assert_close(found["qk:lhs"].qparams()["scale"].reshape(()), chosen * 6**-0.5)


def test_power_of_two_factors_are_those_of_the_last_batch(module: Attention, model: QuantizedModel) -> None:
    """The reference loops over channels as the published observer does; both operands of one tensor get the same."""
    seen: list[Tensor] = []
    hook = module.norm.register_forward_pre_hook(lambda _, x: seen.append(x[0]))
    with torch.no_grad():
        module(IMAGES), module(IMAGES[8:])
    hook.remove()
    whole, last = seen
    eighth, zero_point = affine(whole.min(), whole.max())
    exponents = []
    for channel in range(12):
        values = last[..., channel]
        errors = [
            float((fake_quantize(values, eighth / 8 * 2**alpha, zero_point) - values).square().sum())
            for alpha in range(4)
        ]
        exponents.append(float(errors.index(min(errors))))
    found = solve(model, SETTINGS, "power_of_two_factor")["norm:input"].qparams()
    torch.testing.assert_close(found["scale"].reshape(()), eighth / 8)
    assert found["exponent"].flatten().tolist() == exponents
    assert len(set(exponents)) > 1


@pytest.mark.parametrize("shares", [True, False])
def test_behind_quantized_sites(module: Attention, model: QuantizedModel, shares: bool) -> None:
    """One range for all parts of the output of the layer, as it is quantized."""
    config = OperandConfig(scheme="uniform", bits=BITS)
    layer: SiteConfig = {"input": config, "weight": OperandConfig(scheme="uniform", bits=2, granularity="channel")}
    recipe: dict[str, SiteConfig] = {"qkv": layer, "qk": {"lhs": config, "rhs": config}, "av": {"rhs": config}}
    settings = replace(SETTINGS, sample_last_batch=False, shares_ranges=shares, inputs="quantized")
    found = dict(solve_in_order(model, list(torch.split(IMAGES, 4)), recipe, settings))
    of_input, of_weight = found["qkv"]["input"], found["qkv"]["weight"]
    with torch.no_grad():
        whole = nn.functional.linear(of_input(IMAGES), of_weight(module.qkv.weight), module.qkv.bias)
    parts = whole.chunk(3, -1)
    for (site, operand), factor, part in zip(PARTS, (6**-0.5, 1.0, 1.0), parts, strict=True):
        seen = whole if shares else part
        scale, _ = affine(seen.min(), seen.max())
        torch.testing.assert_close(found[site][operand].qparams()["scale"].reshape(()), scale * factor)
    only = dict(solve_in_order(model, [IMAGES], {"qkv": layer, "av": {"rhs": config}}, settings))
    assert torch.equal(only["av"]["rhs"].qparams()["scale"], found["av"]["rhs"].qparams()["scale"])
    assert all(slot.quantizer is None for slot in model.slots.values())


def affine(lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
    scale = (upper - lower) / (2**BITS - 1)
    return scale, (-(lower / scale).round()).clamp(0, 2**BITS - 1)


def fake_quantize(x: Tensor, scale: Tensor, zero_point: Tensor) -> Tensor:
    return ((x / scale + zero_point).round().clamp(0, 2**BITS - 1) - zero_point) * scale


def test_batches_have_an_image_at_least() -> None:
    from autoq.errors import CalibrationError

    with pytest.raises(CalibrationError, match="batch_images must be at least 1, got 0"):
        CalibrationSettings(batch_images=0)
