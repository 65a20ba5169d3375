"""What a search asks of a recipe: evaluated, stopped early, or added up from sensitivities."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import cast

import pytest

from autoq.errors import NonFiniteError, RunError
from autoq.optimization.objective import AdditiveObjective, Evaluation, JointObjective
from autoq.recipe import OperandConfig, SiteConfig
from autoq.scoring.discrepancy import Score
from autoq.scoring.evaluator import Evaluator
from autoq.sensitivity.proxies import PROXIES, joint_proxies
from autoq.sensitivity.table import Sensitivity, SensitivityTable

FIRST, ALL = Score(0.5, 80.0, 10.0, 0.25, 4), Score(0.125, 90.0, 20.0, 0.0625, 16)
FOUR, EIGHT = OperandConfig(scheme="uniform", bits=4), OperandConfig(scheme="uniform", bits=8)
RECIPE: dict[str, SiteConfig] = {"a": {"input": FOUR, "weight": EIGHT}, "b": {"input": EIGHT}}
EXPECTED = {"kl": (0.5, 0.125), "mse": (0.25, 0.0625), "agreement": (20.0, 10.0)}

ADDITIVE = [name for name, proxy in PROXIES.items() if proxy.is_additive]


class FakeEvaluator:
    """Evaluates in two batches of made-up scores."""

    images = 16

    def __init__(self) -> None:
        self.recipes: list[Mapping[str, SiteConfig]] = []

    def evaluate(self, sites: Mapping[str, SiteConfig], go_on: Callable[[Score], bool] | None = None) -> Score:
        self.recipes.append(sites)
        return FIRST if go_on is not None and not go_on(FIRST) else ALL


def joint(proxy: str) -> tuple[JointObjective, FakeEvaluator]:
    evaluator = FakeEvaluator()
    return JointObjective(cast(Evaluator, evaluator), proxy), evaluator


@pytest.mark.parametrize("proxy", EXPECTED)
def test_a_recipe_is_evaluated(proxy: str) -> None:
    measure, evaluator = joint(proxy)
    assert measure(RECIPE) == Evaluation(EXPECTED[proxy][1], ALL, is_complete=True)
    assert evaluator.recipes == [RECIPE]


@pytest.mark.parametrize("proxy", EXPECTED)
@pytest.mark.parametrize("goes_on", [True, False])
def test_the_first_loss_decides_whether_to_go_on(proxy: str, goes_on: bool) -> None:
    measure, _ = joint(proxy)
    asked: list[float] = []

    def go_on(loss: float) -> bool:
        asked.append(loss)
        return goes_on

    first, complete = EXPECTED[proxy]
    expected = Evaluation(complete, ALL, is_complete=True) if goes_on else Evaluation(first, FIRST, is_complete=False)
    assert measure(RECIPE, go_on) == expected
    assert asked == [first], "by the proxy, not by the KL divergence"


def test_errors_are_passed_on() -> None:
    measure, evaluator = joint("kl")

    def fail(*_: object) -> Score:
        raise NonFiniteError("NaN arises first at site 'a'", "a")

    evaluator.evaluate = fail  # type: ignore[method-assign,assignment]
    with pytest.raises(NonFiniteError, match="site 'a'"):
        measure(RECIPE)


def test_every_proxy_is_evaluated_or_added_up() -> None:
    assert set(joint_proxies()) == set(EXPECTED)
    assert {"fisher", "aph"} == set(ADDITIVE)
    assert not set(joint_proxies()) & set(ADDITIVE)


@pytest.mark.parametrize("proxy", ADDITIVE)
def test_sensitivities_are_added_up(proxy: str) -> None:
    losses = {
        ("a", "input", FOUR): 1.0,
        ("a", "input", EIGHT): 100.0,
        ("a", "weight", EIGHT): 1e-17,
        ("b", "input", EIGHT): -1.0 + 0.25 + 1.0,
    }
    measure = AdditiveObjective(SensitivityTable(proxy, 8, tuple(Sensitivity(*key, x) for key, x in losses.items())))
    assert measure(RECIPE) == Evaluation(1.25, None, is_complete=True)
    assert measure({}) == Evaluation(0.0, None)
    assert measure(RECIPE, lambda _: pytest.fail("there is nothing to stop")).loss == 1.25
    with pytest.raises(RunError, match="b:input"):
        measure({"b": {"input": FOUR}})


def test_an_unusable_option_makes_the_sum_infinite() -> None:
    rows = (Sensitivity("a", "input", FOUR, math.inf), Sensitivity("b", "input", EIGHT, 1.0))
    measure = AdditiveObjective(SensitivityTable("aph", 8, rows))
    assert measure({"a": {"input": FOUR}, "b": {"input": EIGHT}}).loss == math.inf
