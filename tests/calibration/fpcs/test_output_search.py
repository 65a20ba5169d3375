"""The layer-output search: order, alternation, what it falls back to, and how it goes through a model."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from autoq.calibration import CalibrationSettings, OperandSample, solve
from autoq.calibration.fpcs.layer_error import QuadraticError
from autoq.calibration.fpcs.output_search import solve_jobs, solve_site
from autoq.calibration.fpcs.settings import FpcsSettings
from autoq.calibration.fpcs.site_solver import SiteSolver
from autoq.errors import CalibrationError, RecipeError
from autoq.graph.insert import QuantizedModel
from autoq.graph.sites import Operand, Site
from autoq.graph.trace import trace
from autoq.quantizers import BaseQuantizer, OperandLayout, quantizer_class
from autoq.recipe import OperandConfig, SiteConfig
from tests.calibration.output_samples import SiteSample, attention, convolution, correlated, generator, linear
from tests.calibration.samples import block_model, images

SETTINGS = CalibrationSettings()
FPCS = FpcsSettings()
EVERYTHING = FpcsSettings(tokens=1 << 20, zero_point_window="observed")


def uniform(bits: int = 3, granularity: str = "tensor", **fields: object) -> OperandConfig:
    return OperandConfig.model_validate({"scheme": "uniform", "bits": bits, "granularity": granularity} | fields)


def solve_sample(sample: SiteSample, configs: SiteConfig, fpcs: FpcsSettings = EVERYTHING) -> dict[str, BaseQuantizer]:
    return solve_site(sample.site, configs, sample.operands, replace(SETTINGS, fpcs=fpcs), sample.convolution)


def by_own_error(
    sample: SiteSample, configs: SiteConfig, settings: CalibrationSettings = SETTINGS
) -> dict[str, BaseQuantizer]:
    solved = {}
    for name, config in configs.items():
        operand, values = sample.site.operand(name), sample.operands[name]
        kept = {axis % values.ndim for axis in (operand.layout.channel_axis, operand.layout.head_axis) if axis}
        others = [axis for axis in range(values.ndim) if axis not in kept]
        bounds = values.amin(others, keepdim=True), values.amax(others, keepdim=True)
        data: Tensor | OperandSample = values if operand.is_weight else OperandSample(values, *bounds, None)
        solved[name] = solve(operand, config, data, settings)
    return solved


def assert_equal(one: dict[str, BaseQuantizer], other: dict[str, BaseQuantizer]) -> None:
    assert one.keys() == other.keys()
    for name, quantizer in one.items():
        for parameter, value in quantizer.qparams().items():
            assert torch.equal(value, other[name].qparams()[parameter])


SAMPLES = [
    (linear(8, 20, 12, 10), {"input": uniform(4), "weight": uniform(3, "channel")}),
    (linear(8, 20, 12, 10), {"weight": uniform(2, "channel")}),
    (linear(8, 20, 12, 10), {"input": uniform(4, symmetric=True), "weight": uniform(4, symmetric=True)}),
    (linear(8, 20, 12, 10, "gelu"), {"input": OperandConfig(scheme="adalog", bits=3), "weight": uniform(3, "channel")}),
    (linear(8, 20, 12, 10, "gelu"), {"input": OperandConfig(scheme="log_sqrt2", bits=3), "weight": uniform()}),
    (attention(images=8, tokens=12), {"lhs": uniform(3, "head"), "rhs": uniform(3, "head")}),
    (attention("av", 8, 2, 12), {"lhs": OperandConfig(scheme="adalog", bits=3), "rhs": uniform(3, "head")}),
    (attention("av", 8, 2, 12), {"lhs": uniform(4), "rhs": uniform(3, "channel")}),
    (convolution(), {"input": uniform(3), "weight": uniform(3, "channel")}),
]


@pytest.mark.parametrize(("sample", "configs"), SAMPLES)
def test_never_worse_than_the_least_own_error(sample: SiteSample, configs: SiteConfig) -> None:
    found = float(sample.error(solve_sample(sample, configs)).sum())
    own = float(sample.error(by_own_error(sample, configs)).sum())
    assert found <= 1.001 * own


def test_much_better_on_correlated_inputs() -> None:
    sample = linear(16, 40, 24, 16)
    configs = {"weight": uniform(3, "channel")}
    found = float(sample.error(solve_sample(sample, configs)).sum())
    assert found < 0.7 * float(sample.error(by_own_error(sample, configs)).sum())


@pytest.mark.parametrize(("sample", "configs"), SAMPLES)
def test_deterministic_and_as_configured(sample: SiteSample, configs: SiteConfig) -> None:
    fpcs = replace(FPCS, tokens=16)
    one, other = (solve_sample(sample, configs, fpcs) for _ in range(2))
    assert_equal(one, other)
    for name, config in configs.items():
        assert one[name].config == config
        assert one[name].layout == sample.site.operand(name).layout


@pytest.mark.parametrize(("sample", "configs"), SAMPLES)
def test_further_rounds_do_not_harm(sample: SiteSample, configs: SiteConfig) -> None:
    errors = [
        float(sample.error(solve_sample(sample, configs, replace(EVERYTHING, rounds=rounds))).sum())
        for rounds in (1, 2, 3)
    ]
    assert errors[1] <= errors[0] * (1 + 1e-5)
    assert errors[2] <= errors[1] * (1 + 1e-5)


def test_searches_run_in_the_published_order(monkeypatch: pytest.MonkeyPatch) -> None:
    sample, calls = linear(8, 20, 12, 10), []
    original = SiteSolver.error

    def recorded(
        self: SiteSolver, name: str, config: OperandConfig, other: str, given: BaseQuantizer | None
    ) -> QuadraticError:
        calls.append((name, given is not None))
        return original(self, name, config, other, given)

    monkeypatch.setattr(SiteSolver, "error", recorded)
    solve_sample(sample, {"input": uniform(2), "weight": uniform(3, "channel")})
    expected = [("weight", False), *[("input", True), ("weight", True)] * EVERYTHING.rounds]
    assert len(calls) >= 3
    assert calls == expected[: len(calls)]
    calls.clear()
    solve_sample(sample, {"input": uniform(2)})
    assert calls == [("input", False)]


def test_stops_when_nothing_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    sample, calls = linear(8, 20, 12, 10), []
    monkeypatch.setattr(
        SiteSolver,
        "_search",
        lambda self, name, config, *_: calls.append(name) or self.searches[name].observed(config),
    )
    solve_sample(sample, {"input": uniform(2), "weight": uniform(3, "channel")})
    assert calls == ["weight", "input", "weight"]


def test_weights_make_up_for_quantized_inputs() -> None:
    sample = linear(16, 40, 12, 10)
    configs = {"input": uniform(3), "weight": uniform(4, "channel")}
    joint = solve_sample(sample, configs)
    separate = {"input": joint["input"]} | solve_sample(sample, {"weight": configs["weight"]})
    assert float(sample.error(joint).sum()) < float(sample.error(separate).sum())


def test_without_rounds_each_operand_is_searched_beside_a_full_precision_one() -> None:
    sample = linear(8, 20, 12, 10)
    configs: SiteConfig = {"input": uniform(3), "weight": uniform(2, "channel")}
    found = solve_sample(sample, configs, replace(FPCS, rounds=0))
    assert_equal(found, {name: solve_sample(sample, {name: config}, FPCS)[name] for name, config in configs.items()})


def test_sharing_between_configurations_changes_nothing() -> None:
    sample = linear(8, 20, 12, 10)
    options: list[SiteConfig] = [
        {"input": uniform(a), "weight": uniform(w, "channel")} for a in (3, 4) for w in (2, 4)
    ] + [{"input": uniform(4, "channel")}, {"weight": uniform(4)}]
    solver = SiteSolver(sample.site, sample.operands, replace(SETTINGS, fpcs=FPCS))
    for configs in options:
        assert_equal(solver.solve(configs), solve_sample(sample, configs, FPCS))


def test_what_all_configurations_need_is_computed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    from autoq.calibration.fpcs import site_solver

    sample, calls = linear(8, 20, 12, 10), []
    original = site_solver.gram_factor

    def counted(vectors: Tensor) -> Tensor:
        calls.append(vectors)
        return original(vectors)

    monkeypatch.setattr(site_solver, "gram_factor", counted)
    solver = SiteSolver(sample.site, sample.operands, replace(SETTINGS, fpcs=FPCS))
    for bits in (2, 3, 4):
        solver.solve({"weight": uniform(bits, "channel")})
    assert len(calls) == 1


@pytest.mark.parametrize("scheme", ["log2", "adalog"])
def test_softmax_keeps_scale_one(scheme: str) -> None:
    solved = solve_sample(attention("av"), {"lhs": OperandConfig(scheme=scheme, bits=3, granularity="head")})
    assert (solved["lhs"].qparams()["scale"] == 1).all()
    assert (solved["lhs"].qparams()["shift"] == 0).all()


def test_base_sqrt2_after_softmax_has_a_scale_of_its_own() -> None:
    """At three bits it reaches down to 2^-3 of its scale: of attention over many tokens, little is above that."""
    sample = attention("av", 4, 2, 40)
    config = OperandConfig(scheme="log_sqrt2", bits=3)
    found = solve_sample(sample, {"lhs": config})
    layout, one = sample.site.operand("lhs").layout, torch.ones(1, 1, 1, 1)
    at_one = quantizer_class("log_sqrt2").from_range(config, layout, torch.zeros_like(one), one)
    assert (found["lhs"].qparams()["scale"] < 0.9).all()
    assert (found["lhs"].qparams()["shift"] == 0).all()
    assert float(sample.error(found).sum()) < 0.5 * float(sample.error({"lhs": at_one}).sum())


def test_the_best_base_after_softmax_is_found() -> None:
    sample = attention("av", 4, 2, 10)
    config = OperandConfig(scheme="adalog", bits=3)
    found = float(sample.error(solve_sample(sample, {"lhs": config})).sum())
    every = [
        float(sample.error(solve_sample(sample, {"lhs": config.model_copy(update={"log_base_numerator": q})})).sum())
        for q in range(10, 138)
    ]
    assert found == pytest.approx(min(every), rel=1e-4)
    assert max(every) > 1.5 * found


def test_a_given_base_is_kept() -> None:
    config = OperandConfig(scheme="adalog", bits=3, log_base_numerator=50)
    for sample in (attention("av"), linear(4, 20, 12, 10, "gelu")):
        name = sample.site.operands[0].name
        solved = solve_sample(sample, {name: config})
        assert float(solved[name].qparams()["log_base_numerator"]) == 50


def test_other_schemes_have_their_own_solvers_and_are_taken_as_given() -> None:
    sample = linear(8, 20, 12, 10)
    layout = OperandLayout(3, -1, None, -1, -1)
    described = Operand("input", (1, 20, 12), "other", layout)
    sample = SiteSample(Site("fc", "linear", 1, (described, sample.site.operands[1])), sample.operands)
    configs = {
        "input": OperandConfig(scheme="instance_groups", bits=3, groups=2),
        "weight": uniform(3, "channel"),
    }
    solved = solve_sample(sample, configs)
    assert_equal({"input": solved["input"]}, solve_sample(sample, {"input": configs["input"]}))
    alone = solve_sample(sample, {"weight": configs["weight"]})
    mixed = {"input": solved["input"], "weight": alone["weight"]}
    assert float(sample.error(solved).sum()) < float(sample.error(mixed).sum())


@pytest.mark.parametrize(
    ("sample", "configs"),
    [
        (linear(8, 20, 12, 10), {"weight": uniform(3, "group", groups=3), "input": uniform(3, "group", groups=3)}),
        (linear(8, 20, 12, 10), {"input": uniform(3, "channel"), "weight": uniform(3, "channel")}),
        (convolution(groups=2), {"input": uniform(3), "weight": uniform(3, "channel")}),
        (replace(convolution(), convolution=None), {"weight": uniform(3, "channel")}),
        (attention(), {"rhs": uniform(3, "channel"), "lhs": uniform(3, "head")}),
        (attention("av"), {"lhs": OperandConfig(scheme="log2", bits=3, granularity="channel")}),
        (linear(8, 20, 12, 10, "gelu"), {"input": OperandConfig(scheme="adalog", bits=3, granularity="channel")}),
    ],
)
def test_what_has_no_output_error_is_still_solved(sample: SiteSample, configs: SiteConfig) -> None:
    solved = solve_sample(sample, configs)
    assert solved.keys() == configs.keys()
    joint = SiteSolver(sample.site, sample.operands, replace(SETTINGS, fpcs=EVERYTHING), sample.convolution)._is_joint
    own = [name for name, config in configs.items() if not joint(name, config)]
    assert own
    for name in own:
        quantizer, values = solved[name], sample.operands[name]
        observed = by_own_error(sample, {name: configs[name]}, CalibrationSettings(observer="min_max"))[name]
        error, most = (float((each(values) - values).square().sum()) for each in (quantizer, observed))
        # Whatever the observer, the other solver fits bases.
        assert error <= most * (1.02 if configs[name].scheme == "adalog" else 1 + 1e-5)


@pytest.mark.parametrize("bits", [1, 2, 8])
def test_constant_operands(bits: int) -> None:
    sample = linear(4, 6, 5, 4)
    for value in (0.0, 2.0):
        sample.operands["input"].fill_(value)
        sample.operands["weight"].fill_(value)
        configs = {"input": uniform(bits), "weight": uniform(bits, "channel")}
        error = float(sample.error(solve_sample(sample, configs)).sum())
        assert error <= 1e-6 * max(value, 1e-6) * sample.output({}).numel()


def test_unknown_operands_are_refused() -> None:
    with pytest.raises(CalibrationError, match="has no operand 'lhs'; it has input, weight"):
        solve_sample(linear(), {"lhs": uniform()})


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
    kept: list[Tensor] = []

    class Spy(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            kept.append(x)
            return x

    model.insert_({("fc2", "input"): Spy()})
    with torch.no_grad():
        model.run(data[:4])
    model.remove_()
    operands = {"input": kept[0], "weight": model.traced.weight("fc2")}
    expected = solve_site(model.traced.sites_by_name["fc2"], jobs["fc2"][0], operands, replace(SETTINGS, fpcs=fpcs))
    for name, quantizer in solved.items():
        for parameter, value in quantizer.qparams().items():
            torch.testing.assert_close(value, expected[name].qparams()[parameter], rtol=1e-3, atol=1e-3)


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
    assert {site.op for site in model.traced.sites} == {"conv2d", "einsum"}
    found = {name: solved for name, _, solved in solve_jobs(model, data, 4, jobs, replace(SETTINGS, fpcs=EVERYTHING))}
    assert {name: solved.keys() for name, solved in found.items()} == {
        site.name: {operand.name for operand in site.operands} for site in model.traced.sites
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
