"""Allocations against every assignment tried in turn: losses, costs, ties and budgets."""

from __future__ import annotations

import itertools
import math
import random
from functools import cache
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoq.cost import CostModel, model_cost
from autoq.errors import BudgetError, NonFiniteError, SpaceError
from autoq.graph.sites import Operand, Site
from autoq.optimization.allocation import tied_knapsack
from autoq.optimization.allocation.knapsack import pareto
from autoq.optimization.allocation.problem import Allocation, AllocationProblem, Table
from autoq.optimization.space import ResolvedSpace, load_space, parse_space, resolve_space, shipped_spaces
from autoq.quantizers.granularity import OperandLayout
from autoq.recipe import OperandConfig
from tests.optimization.synthetic_sites import MODELS, conv, linear, norm, product

SITES = [linear("a.fc", 5, 8, 6), product("a.qk", (1, 2, 5, 4), (1, 2, 4, 5)), linear("b.fc", 5, 4, 7)]
WITH_NORM = [norm("norm", 5, 8), linear("a.fc", 5, 8, 6), linear("b.fc", 1, 8, 7), linear("float", 5, 3, 2)]
BITS = '[[rules]]\nscheme = "uniform"\nbits = [2, 5, 8]\n'
GROUPS = BITS + '[[rules]]\noperand = "input"\nscheme = "instance_groups"\nbits = [3, 4]\ngroups = [1, 2, 4]\n'
# With scheme uniform the group count has no effect, but the tie must still let it take each choice.
SCHEMES = GROUPS + '[[rules]]\noperand = "input"\nscheme = ["uniform", "instance_groups"]\ngroups = [2, 4]\n'
NORMS = (
    '[[rules]]\nop = "linear"\nscheme = "uniform"\nbits = [2, 4]\n'
    '[[rules]]\nsite = "a.fc"\noperand = "weight"\nbits = 6\n'
    '[[rules]]\nop = "linear"\noperand = "input"\nscheme = "instance_groups"\ngroups = [1, 8]\n'
    '[[rules]]\nop = "layer_norm"\nscheme = "uniform"\nbits = [4, 8]\nsymmetric = [true, false]\n'
    '[[rules]]\nsite = "float"\nquantize = false\n'
)
QK_OFF = '[[rules]]\nsite = "a.qk"\noperand = "rhs"\nquantize = false\n'


def tie(match: str, field: str, by: str) -> str:
    return f'[[ties]]\nmatch = "{match}"\nfields = ["{field}"]\nby = "{by}"\n'


CASES: dict[str, tuple[list[Site], str]] = {
    "bits": (SITES, BITS),
    "groups": (SITES, GROUPS + QK_OFF),
    "norm and fixed fields": (WITH_NORM, NORMS),
    "tied by site": (SITES, BITS + tie("*", "bits", "site")),
    "tied by operand": (SITES, BITS + tie("*", "bits", "operand")),
    "all tied": (SITES, BITS + tie("*", "bits", "all")),
    "groups tied, without effect in places": (SITES, SCHEMES + QK_OFF + tie("*", "groups", "all")),
    "schemes and bits tied": (SITES, SCHEMES + QK_OFF + tie("*:input", "scheme", "all") + tie("*", "bits", "operand")),
    "a chain": (
        SITES,
        BITS + tie("a.fc:*", "bits", "site") + tie("*:[iwl]*", "bits", "operand") + tie("*:weight", "bits", "all"),
    ),
    "norm tied to a layer": (WITH_NORM, NORMS + tie("*:input", "groups", "all") + tie("b.fc:*", "bits", "all")),
}
TIED = [name for name, (_, text) in CASES.items() if "ties" in text]


class Everything:
    """Every assignment of a case: its cost, and which configuration each operand gets."""

    def __init__(self, case: str) -> None:
        self.sites, text = CASES[case]
        self.space = resolve_space(parse_space("schema_version = 1\n" + text), self.sites)
        self.problem = AllocationProblem(CostModel(self.sites), self.space)
        names = [decision.name for decision in self.space.decisions]
        ways = itertools.product(*(decision.choices for decision in self.space.decisions))
        self.assignments = [dict(zip(names, values, strict=True)) for values in ways]
        assert len(self.assignments) < 6000, "keep cases small"
        recipes = [self.space.sites_for(assignment) for assignment in self.assignments]
        self.costs = np.array([model_cost(self.sites, recipe).bops for recipe in recipes])
        numbers = [{c: i for i, c in enumerate(configs)} for configs in self.problem.options]
        self.configs = np.array(
            [
                [number[recipe[site][operand]] for number, (site, operand) in zip(numbers, operands, strict=True)]
                for recipe, operands in zip(recipes, itertools.repeat(self.problem.operands))
            ]
        )

    def losses(self, table: Table) -> Any:
        columns = [np.where(np.isfinite(t), t, np.inf)[self.configs[:, column]] for column, t in enumerate(table)]
        return np.sum(columns, axis=0)


@cache
def everything(case: str) -> Everything:
    return Everything(case)


def random_table(problem: AllocationProblem, seed: int, kind: str, unusable: float = 0.0) -> Table:
    rng = np.random.default_rng(seed)
    tables = []
    for configs in problem.options:
        values = {
            "wide": 10 ** rng.uniform(-9, 1, len(configs)),
            "equal": rng.integers(0, 3, len(configs)).astype(float),
            "signed": rng.normal(size=len(configs)),
        }[kind]
        bad = rng.random(len(configs)) < unusable
        tables.append(np.where(bad, rng.choice([np.inf, np.nan, -np.inf], len(configs)), values))
    return tables


def check(allocation: Allocation, reference: Everything, table: Table, budget: int) -> None:
    problem = reference.problem
    recipe = reference.space.sites_for(allocation.assignment)
    assert allocation.cost == model_cost(reference.sites, recipe).bops <= budget
    assert list(problem.combinations_of(allocation.assignment)) == list(allocation.combinations)
    numbers = [configs.index(recipe[s][o]) for (s, o), configs in zip(problem.operands, problem.options, strict=True)]
    assert allocation.loss == pytest.approx(
        sum(t[i] for t, i in zip(table, numbers, strict=True)), rel=1e-12, abs=1e-14
    )


@pytest.mark.parametrize("joined", [True, False], ids=["joined", "branched"])
@pytest.mark.parametrize("case", CASES)
@settings(max_examples=20, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    kind=st.sampled_from(["wide", "equal", "signed"]),
    position=st.floats(0, 1),
    below=st.integers(0, 1),
    unusable=st.sampled_from([0.0, 0.0, 0.3]),
)
def test_no_assignment_is_better(
    case: str, joined: bool, seed: int, kind: str, position: float, below: int, unusable: float
) -> None:
    reference = everything(case)
    table = random_table(reference.problem, seed, kind, unusable)
    losses = reference.losses(table)
    usable = np.isfinite(losses)
    # Budgets that some assignment just meets, or just misses.
    budget = int(np.sort(reference.costs)[int(position * (len(losses) - 1))]) - below
    fits = usable & (reference.costs <= budget)
    with pytest.MonkeyPatch.context() as patch:
        if not joined:
            patch.setattr(tied_knapsack, "_MAX_COMBINATIONS", 0)
        if not fits.any():
            with pytest.raises((BudgetError, NonFiniteError)) as caught:
                reference.problem.allocate(table, budget, gap=0)
            assert isinstance(caught.value, BudgetError) == usable.any()
            if usable.any():
                assert f"({reference.costs[usable].min()})" in str(caught.value)
            return
        allocation = reference.problem.allocate(table, budget, gap=0)
        near = reference.problem.relaxed(reference.problem.site_losses(table), [budget])[0]
    assert allocation.optimal
    check(allocation, reference, table, budget)
    assert allocation.loss == pytest.approx(losses[fits].min(), rel=1e-12, abs=1e-14)
    assert reference.problem.cost(near) <= budget
    assert near.tolist() == reference.problem.combinations_of(reference.problem.assignment(near)).tolist()


@pytest.mark.parametrize("limit", [0, 1 << 12])
@pytest.mark.parametrize("case", CASES)
def test_least_and_most_cost(case: str, limit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tied_knapsack, "_MAX_COMBINATIONS", limit)
    reference = everything(case)
    problem = AllocationProblem(CostModel(reference.sites), reference.space)
    assert (problem.minimum_cost, problem.maximum_cost) == (reference.costs.min(), reference.costs.max())


@pytest.mark.parametrize("case", CASES)
def test_each_option_is_there_once_and_has_its_cost(case: str) -> None:
    reference = everything(case)
    problem = reference.problem
    reached = {tuple(problem.combinations_of(assignment)) for assignment in reference.assignments}
    for column, site in enumerate(problem.sites):
        assert {options[column] for options in reached} == set(range(len(site.cost)))
        if not any(site.ties.ravel() >= 0):
            assert len({tuple(config.items()) for config in site.configs}) == len(site.configs)
    for options in reached:
        assignment = problem.assignment(options)
        recipe = reference.space.sites_for(assignment)
        assert tuple(problem.combinations_of(assignment)) == options
        assert {site.site: site.configs[o] for site, o in zip(problem.sites, options, strict=True)} == recipe
        assert problem.cost(options) == model_cost(reference.sites, recipe).bops
    for (site, operand), configs in zip(problem.operands, problem.options, strict=True):
        assert configs == reference.space.options_for(site, operand)


@pytest.mark.parametrize("case", TIED)
def test_options_that_disagree_in_a_tie_are_refused(case: str) -> None:
    problem = everything(case).problem
    kept = {tuple(problem.combinations_of(a)) for a in everything(case).assignments}
    ways = list(itertools.product(*(range(len(site.cost)) for site in problem.sites)))
    for options in random.Random(0).sample(ways, min(50, len(ways))):
        if options in kept:
            problem.assignment(options)
        else:
            with pytest.raises(SpaceError, match="tied sites need options with the same choice"):
                problem.assignment(options)
    if not problem.tied:
        assert len(kept) == len(ways)


@pytest.mark.parametrize("model", sorted(MODELS))
@pytest.mark.parametrize("name", shipped_spaces())
def test_shipped_spaces(name: str, model: str, capfd: pytest.CaptureFixture[str]) -> None:
    """Far too many assignments to try: compared with random ones, with the bound, and with itself."""
    sites = MODELS[model]()
    space = resolve_space(load_space(name), sites)
    problem = AllocationProblem(CostModel(sites), space)
    assert problem.minimum_cost == model_cost(sites, space.cheapest()).bops
    table = smooth_table(problem, 3)
    losses = problem.site_losses(table)
    rng = random.Random(0)
    for _ in range(5):
        assignment = {decision.name: rng.choice(decision.choices) for decision in space.decisions}
        options = problem.combinations_of(assignment)
        budget = problem.cost(options)
        assert budget == model_cost(sites, space.sites_for(assignment)).bops
        assert space.sites_for(problem.assignment(options)) == space.sites_for(assignment)
        allocation = problem.allocate(table, budget)
        assert allocation.optimal
        assert allocation.cost <= budget
        assert allocation.loss <= sum(loss[o] for loss, o in zip(losses, options, strict=True))
        near = problem.relaxed(losses, [budget])[0]
        assert problem.cost(near) <= budget
        loss = math.fsum(loss[o] for loss, o in zip(losses, near, strict=True))
        limit = 1.2 if len(problem.sites) < 10 else 1.03  # one step of one site weighs more where there are few
        assert allocation.loss * (1 - 1e-6) <= loss <= limit * allocation.loss
        again = AllocationProblem(CostModel(sites), space).allocate(table, budget)
        assert (again.combinations.tolist(), again.assignment) == (
            allocation.combinations.tolist(),
            allocation.assignment,
        )
    assert capfd.readouterr() == ("", "")


def smooth_table(problem: AllocationProblem, seed: int) -> Table:
    """Losses that fall with bits and groups, each operand with a sensitivity of its own."""
    rng = np.random.default_rng(seed)
    sensitivity = {operand: 10 ** rng.uniform(-4, -1) for operand in problem.operands}

    def loss(site: str, operand: str, config: OperandConfig) -> float:
        factor = rng.lognormal(0, 0.1) * (0.7 if config.groups > 1 else 1)
        return float(sensitivity[site, operand] * 4.0**-config.bits * factor)

    return problem.table(loss)


def test_a_sweep_is_its_allocations_without_repetitions() -> None:
    reference = everything("groups")
    problem = reference.problem
    table = random_table(problem, 0, "wide")
    budgets = np.linspace(problem.minimum_cost, 1.2 * problem.maximum_cost, 40).astype(int).tolist()
    sweep = problem.sweep(table, budgets)
    single = [problem.allocate(table, budget) for budget in budgets]
    assert [a.combinations.tolist() for a in sweep] == [
        list(o) for o in dict.fromkeys(tuple(a.combinations) for a in single)
    ]
    assert 3 < len(sweep) < len(budgets)
    assert all(one.loss > other.loss for one, other in itertools.pairwise(sweep))


def test_the_table_asks_for_each_configuration_once() -> None:
    problem = everything("groups").problem
    asked: list[Any] = []
    problem.table(lambda *key: asked.append(key) or 0.0)
    assert len(asked) == len(set(asked)) == sum(map(len, problem.options))


def test_an_unreachable_budget_tells_the_least() -> None:
    problem = everything("bits").problem
    table = problem.table(lambda *_: 0.0)
    least = problem.minimum_cost
    assert problem.allocate(table, least).cost == least
    with pytest.raises(BudgetError, match=rf"budget {least - 1} is .* BOPs, .*\({least}\): raise the budget or widen"):
        problem.allocate(table, least - 1)
    with pytest.raises(BudgetError):
        problem.relaxed(problem.site_losses(table), [least - 1])


@pytest.mark.parametrize("value", [math.inf, math.nan])
def test_a_site_without_usable_options_is_named(value: float) -> None:
    problem = everything("all tied").problem
    with pytest.raises(NonFiniteError, match=r"no option of a\.qk .* has a finite loss; offer") as caught:
        problem.allocate(problem.table(lambda s, o, _: value if (s, o) == ("a.qk", "lhs") else 1.0), 10**9)
    assert caught.value.site == "a.qk"
    bad = {("a.qk", 2), ("a.qk", 5), ("b.fc", 8)}
    with pytest.raises(NonFiniteError, match=r"no common choices of \*\.bits have finite losses"):
        problem.allocate(problem.table(lambda s, _, c: value if (s, c.bits) in bad else 1.0), 10**9)


def test_wrong_assignments_are_refused() -> None:
    problem = everything("bits").problem
    with pytest.raises(SpaceError, match="nothing is assigned"):
        problem.combinations_of({})


def test_large_costs_are_counted_to_the_last_one() -> None:
    """Near 1e15 BOPs a tolerance of 1e-9 is a million."""
    sites = [wide_linear(f"{i}.fc", 10**12 + i * 10007 + i**3) for i in range(5)]
    space = resolve_space(parse_space("schema_version = 1\n" + BITS), sites)
    problem = AllocationProblem(CostModel(sites), space)
    table = random_table(problem, 5, "wide")
    losses = problem.site_losses(table)
    options = problem.allocate(table, (problem.minimum_cost + problem.maximum_cost) // 2, gap=0)
    assert problem.allocate(table, options.cost, gap=0).loss == options.loss
    tighter = problem.allocate(table, options.cost - 1, gap=0)
    assert tighter.cost < options.cost
    ways = itertools.product(*(pareto(site.cost, loss) for site, loss in zip(problem.sites, losses, strict=True)))
    best = min(
        math.fsum(loss[o] for loss, o in zip(losses, way, strict=True))
        for way in ways
        if problem.cost(way) < options.cost
    )
    assert tighter.loss == pytest.approx(best, rel=1e-12)


def wide_linear(name: str, macs: int) -> Site:
    operands = [
        Operand(n, (8, 8), "parameter" if n == "weight" else "other", OperandLayout(2, -1)) for n in ("input", "weight")
    ]
    return Site(name, "linear", macs, tuple(operands))


def test_too_many_branches_leave_the_solution_unproven(monkeypatch: pytest.MonkeyPatch) -> None:
    reference = everything("tied by operand")
    monkeypatch.setattr(tied_knapsack, "_MAX_COMBINATIONS", 0)
    monkeypatch.setattr(tied_knapsack, "_MAX_LEAVES", 1)
    budget = int(np.median(reference.costs))
    proofs = set()
    for seed in range(20):
        table = random_table(reference.problem, seed, "wide")
        allocation = reference.problem.allocate(table, budget, gap=0)
        check(allocation, reference, table, budget)
        proofs.add(allocation.optimal)
    assert False in proofs


def test_sites_in_floating_point_count() -> None:
    sites = [conv("stem", 3, 4, 2, 3), linear("fc", 5, 8, 8)]
    space: ResolvedSpace = resolve_space(
        parse_space('schema_version = 1\n[[rules]]\nop = "linear"\nscheme="uniform"\nbits=[4,8]'), sites
    )
    problem = AllocationProblem(CostModel(sites), space)
    assert [site.site for site in problem.sites] == ["fc"]
    assert problem.fixed_cost == sites[0].macs * 32 * 32
    assert problem.minimum_cost == model_cost(sites, space.cheapest()).bops
