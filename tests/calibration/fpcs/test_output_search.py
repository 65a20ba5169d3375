"""How the layer-output search goes through a model."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from autoq.calibration.fpcs.output_search import solve_jobs, solve_site
from autoq.calibration.fpcs.output_weights import OutputWeights
from autoq.errors import CalibrationError, RecipeError
from autoq.graph.insert import QuantizedModel
from autoq.graph.trace import trace
from autoq.recipe import OperandConfig, SiteConfig
from autoq.tasks import CLASSIFICATION
from tests.calibration.output_samples import (
    EVERYTHING,
    FPCS,
    SiteSample,
    by_own_error,
    correlated,
    generator,
    uniform,
)
from tests.calibration.samples import SETTINGS, block_model, images


def every_site(model: QuantizedModel, bits: int) -> dict[str, list[SiteConfig]]:
    jobs: dict[str, list[SiteConfig]] = {}
    for site, operand in model.traced.operands():
        if not site.macs:
            continue
        config = uniform(bits, "channel" if operand.is_weight else "tensor")
        if operand.producer in ("softmax", "gelu"):
            config = OperandConfig(scheme="adalog", bits=bits)
        jobs.setdefault(site.name, [{}])[0][operand.name] = config
    return jobs


def inputs_of(model: QuantizedModel, layer: str, data: Tensor) -> Tensor:
    """In full precision."""
    kept: list[Tensor] = []

    class Spy(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            kept.append(x)
            return x

    model.insert_({(layer, "input"): Spy()})
    with torch.no_grad():
        model.run(data)
    model.remove_()
    return kept[0]


def test_a_model_is_solved_stage_by_stage() -> None:
    model, data = block_model(), images(6)
    jobs = every_site(model, 4)
    jobs["fc1"].append({"weight": uniform(2, "channel")})
    found = list(solve_jobs(model, data, 4, jobs, replace(SETTINGS, fpcs=FPCS)))
    assert [name for name, _, _ in found] == [site.name for site in model.traced.sites for _ in jobs.get(site.name, [])]
    whole = list(solve_jobs(model, data, 6, jobs, replace(SETTINGS, fpcs=FPCS)))
    for (_, configs, one), (_, _, other) in zip(found, whole, strict=True):
        assert one.keys() == configs.keys()
        for name, quantizer in one.items():
            for parameter, value in quantizer.qparams().items():
                torch.testing.assert_close(value, other[name].qparams()[parameter], rtol=1e-2, atol=1e-2)
    with torch.no_grad():
        (full,) = model.run(data)
        model.insert_({(site, name): each for site, _, solved in found[:-1] for name, each in solved.items()})
        (quantized,) = model.run(data)
    assert not torch.equal(full, quantized)
    torch.testing.assert_close(full, quantized, rtol=0.5, atol=3.0)


def test_operands_are_those_of_full_precision_and_of_the_first_images() -> None:
    model, data = block_model(), images(6)
    fpcs = replace(FPCS, images=4)
    jobs: dict[str, list[SiteConfig]] = {"fc2": [{"input": uniform(4), "weight": uniform(4, "channel")}]}
    ((_, _, solved),) = solve_jobs(model, data, 2, jobs, replace(SETTINGS, fpcs=fpcs))
    operands = {"input": inputs_of(model, "fc2", data[:4]), "weight": model.traced.weight("fc2")}
    expected = solve_site(model.traced.sites_by_name["fc2"], jobs["fc2"][0], operands, replace(SETTINGS, fpcs=fpcs))
    for name, quantizer in solved.items():
        for parameter, value in quantizer.qparams().items():
            torch.testing.assert_close(value, expected[name].qparams()[parameter], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("batch_size", [1, 8])
def test_weighted_outputs_are_solved_from_the_last_stage_to_the_first(batch_size: int) -> None:
    """With the weights of their site, and, but for these, as ever."""
    model, data = block_model(), images(6)
    jobs = every_site(model, 4)
    fpcs = replace(EVERYTHING, output_weights="gradients")
    found = {
        name: solved for name, _, solved in solve_jobs(model, data, batch_size, jobs, replace(SETTINGS, fpcs=fpcs))
    }
    order = {name: index for index, stage in enumerate(model.stages) for name in stage.sites}
    assert [order[name] for name in found] == sorted((order[name] for name in found), reverse=True)
    assert found.keys() == jobs.keys()
    weighting = OutputWeights(model, torch.split(data, 2), CLASSIFICATION, SETTINGS.seed)
    for index in reversed(range(order["fc2"], len(model.stages))):
        weights = weighting.of_stage(index, ["fc2"] if index == order["fc2"] else [])
    operands = {"input": inputs_of(model, "fc2", data), "weight": model.traced.weight("fc2")}
    site = model.traced.sites_by_name["fc2"]
    expected, alike = (
        solve_site(site, jobs["fc2"][0], operands, replace(SETTINGS, fpcs=EVERYTHING), output_weights=each)
        for each in (weights["fc2"], None)
    )
    for name, quantizer in found["fc2"].items():
        for parameter, value in quantizer.qparams().items():
            torch.testing.assert_close(value, expected[name].qparams()[parameter], rtol=1e-3, atol=1e-3)
    assert not torch.equal(found["fc2"]["weight"].qparams()["scale"], alike["weight"].qparams()["scale"])


def test_slots_are_empty_between_jobs_and_after_errors() -> None:
    model, data = block_model(), images(4)
    jobs = every_site(model, 4)
    for _ in solve_jobs(model, data, 4, jobs, replace(SETTINGS, fpcs=FPCS)):
        assert all(slot.quantizer is None for slot in model.slots.values())
    data[0, 0, 0] = torch.nan
    with pytest.raises(CalibrationError, match="NaN or infinite values in full precision"):
        list(solve_jobs(model, data, 4, jobs, replace(SETTINGS, fpcs=FPCS)))
    assert all(slot.quantizer is None for slot in model.slots.values())
    with pytest.raises(RuntimeError):
        list(solve_jobs(model, images(4)[:, :3], 4, jobs, replace(SETTINGS, fpcs=FPCS)))
    assert all(slot.quantizer is None for slot in model.slots.values())


def test_wrong_jobs_are_refused() -> None:
    model = block_model()
    with pytest.raises(RecipeError, match="no site 'fc3'"):
        list(solve_jobs(model, images(4), 4, {"fc3": [{"weight": uniform()}]}, replace(SETTINGS, fpcs=FPCS)))
    with pytest.raises(RecipeError, match="no operand 'lhs'"):
        list(solve_jobs(model, images(4), 4, {"fc1": [{"lhs": uniform()}]}, replace(SETTINGS, fpcs=FPCS)))
    with pytest.raises(CalibrationError, match="no calibration images"):
        list(solve_jobs(model, images(0), 4, every_site(model, 4), replace(SETTINGS, fpcs=FPCS)))


class Convolutions(nn.Module):
    """Padded, strided, grouped, and an einsum."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.depthwise = nn.Conv2d(8, 8, 3, padding="same", groups=8)
        self.pointwise = nn.Conv2d(8, 6, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pointwise(self.depthwise(self.stem(x)).relu()).flatten(2)
        return torch.einsum("bcn,bdn->bcd", x, x.sigmoid())


def test_convolutions_of_a_model_use_their_own_geometry() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = Convolutions().eval()
    data = correlated(4, 3, 12, 12) + torch.randn(4, 3, 12, 12, generator=generator(4))
    model = QuantizedModel(trace(module, data[:2]))
    jobs = every_site(model, 4)
    assert {site.op for site in model.traced.sites if site.macs} == {"conv2d", "einsum"}
    found = {name: solved for name, _, solved in solve_jobs(model, data, 4, jobs, replace(SETTINGS, fpcs=EVERYTHING))}
    assert {name: solved.keys() for name, solved in found.items()} == {
        site.name: {operand.name for operand in site.operands} for site in model.traced.sites if site.macs
    }
    with torch.no_grad():
        full = module.stem(data)
        stem = found["stem"]
        quantized = nn.functional.conv2d(
            stem["input"](data), stem["weight"](module.stem.weight), module.stem.bias, stride=2, padding=1
        )
        alone = by_own_error(
            SiteSample(model.traced.sites_by_name["stem"], {"input": data, "weight": module.stem.weight.detach()}),
            jobs["stem"][0],
        )
        own = nn.functional.conv2d(
            alone["input"](data), alone["weight"](module.stem.weight), module.stem.bias, stride=2, padding=1
        )
    assert float((quantized - full).square().sum()) <= float((own - full).square().sum())
