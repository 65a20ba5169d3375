"""Quantizers defined here, outside the project: registering one is all that search, cost, report and bank need."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import ClassVar, Self

import pytest
import torch
from torch import Tensor

from autoq.calibration import OBSERVERS, Bank, CalibrationSettings
from autoq.calibration.fpcs.settings import FpcsSettings
from autoq.calibration.solvers import SOLVERS, BaseSolver, RangeSolver, solver_class
from autoq.calibration.solvers.logarithmic import LogarithmicSolver
from autoq.cost import site_cost
from autoq.errors import RecipeError
from autoq.graph.canonical import canonical
from autoq.graph.insert import QuantizedModel
from autoq.quantizers import QUANTIZERS, BaseLogQuantizer, BaseQuantizer, OperandLayout, SchemeLabel
from autoq.quantizers._base import usable_out, working_dtype
from autoq.quantizers._logarithm import LogLevels, log_levels
from autoq.recipe import ModelReference, OperandConfig, Recipe
from autoq.report.sensitivity_map import best_cells, draw_sensitivity
from autoq.runs.search.run import run_search
from autoq.sensitivity.measure import Sensitivity, SensitivityTable
from tests.calibration.samples import block_model, images, key_of
from tests.contracts.quantizers import ATTENTION_MAP, LINEAR_WEIGHT, Case, QuantizerContract
from tests.optimization.synthetic_sites import linear
from tests.runs.small_run import small_settings, trace_once


class SignMagnitudeQuantizer(BaseQuantizer):
    """value = ±magnitude · scale, with one bit of sign and bits − 1 bits of magnitude."""

    scheme: ClassVar[str] = "sign_magnitude"
    qparam_names: ClassVar[tuple[str, ...]] = ("scale",)
    config_fields: ClassVar[tuple[str, ...]] = ("granularity",)
    scale: Tensor

    @classmethod
    def from_range(cls, config: OperandConfig, layout: OperandLayout, lower: Tensor, upper: Tensor) -> Self:
        finfo = torch.finfo(torch.float32)
        reach = torch.maximum(lower.abs(), upper.abs()) / max(2 ** (config.bits - 1) - 1, 1)
        return cls(config, layout, {"scale": reach.clamp(finfo.tiny, finfo.max / 2**config.bits)})

    @property
    def learnable(self) -> tuple[str, ...]:
        return ("scale",)

    @property
    def greatest(self) -> float:
        return max(2.0 ** (self.config.bits - 1) - 1, 1.0)

    def quantize(self, x: Tensor, groups: Tensor | None = None) -> Tensor:  # noqa: ARG002
        y = x.to(working_dtype(x.dtype)).nan_to_num(0.0, torch.inf, -torch.inf) / self._broadcast(self.scale, x)
        magnitude = y.round().clamp(-self.greatest, self.greatest)
        return torch.where(magnitude < 0, self.greatest + 1 - magnitude, magnitude).to(torch.int32)

    def dequantize(self, codes: Tensor, groups: Tensor | None = None) -> Tensor:  # noqa: ARG002
        signed = torch.where(codes > self.greatest, self.greatest + 1 - codes.float(), codes.float())
        return signed * self._broadcast(self.scale, codes)

    def fake_quantize(self, x: Tensor, out: Tensor | None = None) -> Tensor:
        scale = self._broadcast(self.scale, x)
        y = torch.div(x.to(working_dtype(x.dtype)), scale, out=usable_out(x, out))
        return y.round_().clamp_(-self.greatest, self.greatest).mul_(scale).to(x.dtype)

    def _fake_quantize_with_gradient(self, x: Tensor) -> Tensor:
        scale = self._broadcast(self.scale, x)
        inside = (x.to(working_dtype(x.dtype)) / scale).clamp(-self.greatest, self.greatest)
        return ((inside.detach().round() + (inside - inside.detach())) * scale).to(x.dtype)

    def _prepare(self) -> None:
        self._require_static_shape("scale")
        self._require(bool((self.scale > 0).all()), "scale must be positive")


class Log8Quantizer(BaseLogQuantizer):
    """value = scale · 8^−code − shift."""

    scheme: ClassVar[str] = "log8"
    log_base_numerators: ClassVar[tuple[int, ...]] = (3,)

    @classmethod
    def label(cls, config: OperandConfig) -> SchemeLabel:
        return replace(super().label(config), log_base="8")

    def choose_levels(self, count: int) -> LogLevels:
        return log_levels(count, 3, 1)


@pytest.fixture(autouse=True)
def _registered() -> Iterator[None]:
    for cls in (SignMagnitudeQuantizer, Log8Quantizer):
        QUANTIZERS.register(cls.scheme, cls)
    yield
    for cls in (SignMagnitudeQuantizer, Log8Quantizer):
        QUANTIZERS.unregister(cls.scheme)


@pytest.fixture(scope="module")
def model() -> QuantizedModel:
    return block_model()


def signed(bits: int = 4, **fields: object) -> OperandConfig:
    return OperandConfig.model_validate({"scheme": "sign_magnitude", "bits": bits} | fields)


class TestContract(QuantizerContract):
    gradient_is_one_within = (-0.4, 0.4)
    cases: ClassVar[list[Case]] = [
        Case(signed(4)),
        Case(signed(3, granularity="channel"), LINEAR_WEIGHT, (6, 10)),
        Case(signed(8, granularity="head"), ATTENTION_MAP, (4, 3, 5, 6)),
        Case(signed(4, granularity="group", groups=5)),
    ]


def test_fields_that_it_does_not_read_are_at_their_defaults() -> None:
    operand = linear("fc", 5, 8, 4).operand("input")
    full = signed(granularity="channel", symmetric=True, groups=3, log_base_numerator=20, overflow="extra_zero")
    assert canonical(full, operand) == signed(granularity="channel")
    assert canonical(signed(granularity="head"), operand) == signed()
    assert canonical(signed(granularity="group", groups=100), operand).groups == 8


def test_groups_cost_what_static_groups_cost() -> None:
    site = linear("fc", 5, 8, 4)
    costs = [
        site_cost(site, {"input": OperandConfig(scheme=scheme, bits=4, granularity="group", groups=2)}).group_bops
        for scheme in ("sign_magnitude", "uniform", "instance_groups")
    ]
    assert costs[0] == costs[1] < costs[2]


@pytest.mark.parametrize("observer", OBSERVERS)
def test_a_bank_solves_and_keeps_it(model: QuantizedModel, observer: str, tmp_path: Path) -> None:
    settings = CalibrationSettings(observer=observer, fpcs=FpcsSettings(rounds=0))
    bank = Bank(model, images(8), settings, {})
    options = [("qkv", "input", signed()), ("qkv", "weight", signed(granularity="channel"))]
    bank.solve_all(options, workers=1)
    bank.save(tmp_path)
    again = Bank(model, images(8), settings, {})
    assert again.load(tmp_path)
    for key in options:
        assert torch.equal(again.quantizer(*key).qparams()["scale"], bank.quantizer(*key).qparams()["scale"])
    weight = model.traced.weight("qkv", "weight")
    error = (bank.quantizer(*options[1])(weight) - weight).abs().amax(1)
    assert (error <= 0.5 * weight.abs().amax(1)).all()


@pytest.mark.parametrize("observer", ["min_max", "mse", "fpcs"])
def test_a_new_base_is_solved_like_the_others(model: QuantizedModel, observer: str) -> None:
    assert solver_class("log8") is LogarithmicSolver
    bank = Bank(model, images(8), CalibrationSettings(observer=observer, fpcs=FpcsSettings(rounds=0)), {})
    site, operand = key_of(model, "gelu")
    quantizer = bank.quantizer(site, operand, OperandConfig(scheme="log8", bits=3))
    values = quantizer.dequantize(torch.arange(3)) + quantizer.qparams()["shift"]
    torch.testing.assert_close(values[:, :-1] / values[:, 1:], torch.full_like(values[:, 1:], 8.0))


def test_a_solver_of_its_own_takes_the_place_of_the_range(
    model: QuantizedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    class UnitSolver(BaseSolver):
        quantizer: ClassVar[type] = SignMagnitudeQuantizer

        def solve(self, config: OperandConfig) -> BaseQuantizer:
            layout = self.data.operand.layout
            return SignMagnitudeQuantizer(config, layout, {"scale": torch.ones((1,) * layout.ndim)})

    assert solver_class("sign_magnitude") is RangeSolver
    monkeypatch.setitem(SOLVERS, UnitSolver.quantizer, UnitSolver)
    bank = Bank(model, images(8), CalibrationSettings(), {})
    assert bank.quantizer("qkv", "input", signed()).qparams()["scale"].item() == 1.0


def test_a_recipe_names_it(model: QuantizedModel, tmp_path: Path) -> None:
    sites = {"qkv": {"input": signed(), "weight": signed(granularity="channel")}}
    recipe = Recipe(model=ModelReference(name="block", weights_sha256="0" * 64), sites=sites)
    recipe.save(tmp_path / "recipe.json")
    bank = Bank(model, images(8), CalibrationSettings(observer="min_max"), {})
    loaded = Recipe.load(tmp_path / "recipe.json")
    assert bank.resolve(loaded.sites) == sites
    full = model.run(images(4))
    bank.apply_(loaded.sites)
    assert not torch.equal(torch.as_tensor(model.run(images(4))[0]), torch.as_tensor(full[0]))
    QUANTIZERS.unregister("sign_magnitude")
    try:
        with pytest.raises(RecipeError, match="unknown quantization scheme 'sign_magnitude'"):
            bank.resolve(loaded.sites)
    finally:
        QUANTIZERS.register("sign_magnitude", SignMagnitudeQuantizer)


def test_it_is_marked_in_pictures(tmp_path: Path) -> None:
    rows = tuple(
        Sensitivity("fc", "input", config, loss)
        for config, loss in ((signed(), 0.1), (OperandConfig(scheme="log8", bits=3), 0.2))
    )
    table = SensitivityTable("kl", 8, rows)
    labels = {cell.label for cell in best_cells(table)["fc", "input"].values()}
    assert labels == {SchemeLabel("sign magnitude"), SchemeLabel("log8", log_base="8")}
    draw_sensitivity(table, [("fc", "input")], tmp_path / "map.png")
    assert (tmp_path / "map.png").stat().st_size > 1000


@pytest.mark.slow
def test_a_search_over_a_space_that_names_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trace_once(monkeypatch)
    settings = small_settings(tmp_path)
    Path(settings.space).write_text(
        """
        schema_version = 1
        [[rules]]
        operand = "weight"
        scheme = ["sign_magnitude", "uniform"]
        granularity = "channel"
        bits = [4, 6]
        [[rules]]
        operand = ["input", "lhs", "rhs"]
        scheme = "sign_magnitude"
        bits = [4, 6]
        [[rules]]
        producer = "gelu"
        scheme = "log8"
        """,
        encoding="utf-8",
    )
    changes = {"sampler": "random", "trials": 4, "eval_recipes": 1, "budget_bops": "100%"}
    run_search(settings.model_copy(update=changes), tmp_path / "run")
    recipes = [Recipe.load(path) for path in sorted((tmp_path / "run" / "recipes").glob("*.json"))]
    sites = [operands for recipe in recipes for operands in recipe.sites.values()]
    schemes = {config.scheme for operands in sites for config in operands.values()}
    assert {"sign_magnitude", "log8"} <= schemes
