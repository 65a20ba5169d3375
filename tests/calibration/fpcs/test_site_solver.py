"""One site: order, alternation, and what it falls back to."""

from __future__ import annotations

from dataclasses import replace

import pytest
from torch import Tensor

from autoq.calibration import CalibrationSettings
from autoq.calibration.fpcs.layer_error import QuadraticError
from autoq.calibration.fpcs.site_solver import SiteSolver
from autoq.errors import CalibrationError
from autoq.graph.sites import Operand, Site
from autoq.quantizers import BaseQuantizer, OperandLayout
from autoq.recipe import OperandConfig, SiteConfig
from tests.calibration.output_samples import (
    EVERYTHING,
    FPCS,
    SiteSample,
    assert_equal,
    attention,
    by_own_error,
    convolution,
    linear,
    solve_sample,
    solver_of,
    transposed_convolution,
    uniform,
)
from tests.calibration.samples import SETTINGS

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
    (transposed_convolution(), {"input": uniform(3), "weight": uniform(3, "channel")}),
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


def test_unknown_operands_are_refused() -> None:
    with pytest.raises(CalibrationError, match="has no operand 'lhs'; it has input, weight"):
        solve_sample(linear(), {"lhs": uniform()})


@pytest.mark.parametrize(
    ("sample", "name", "config"),
    [
        (linear(), "input", uniform(3, "channel")),
        (attention(), "rhs", uniform(3, "channel")),
        (convolution(groups=2), "weight", uniform(3, "channel")),
    ],
)
def test_refused_where_the_output_error_does_not_separate(sample: SiteSample, name: str, config: OperandConfig) -> None:
    other = next(each for each in sample.operands if each != name)
    with pytest.raises(CalibrationError, match="by its own error only"):
        solver_of(sample).error(name, config, other, None)
