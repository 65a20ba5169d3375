"""Allocation within several budgets against every recipe of a tiny model tried in turn."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from functools import cache

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from autoq.cost import KINDS, CostModel, LatencyTable, Limits
from autoq.errors import BudgetError
from autoq.graph.live import LiveRegion, LiveSets
from autoq.optimization.allocation.problem import AllocationProblem, Table
from autoq.optimization.space import ResolvedSpace, parse_space, resolve_space
from tests.optimization.synthetic_sites import linear, product

SITES = [linear("q", 4, 6, 6), product("qk", (1, 1, 4, 6), (1, 1, 6, 4)), linear("fc", 4, 6, 10, "gelu")]
RULES = '[[rules]]\nscheme = "uniform"\nbits = [2, 5, 8]\n[[rules]]\noperand = "weight"\ngranularity = "channel"\n'
SPACES = {
    "free": RULES,
    "sites tied": RULES + '[[ties]]\nmatch = "*:input"\nfields = ["bits"]\nby = "all"\n',
    "one operand in floating point": RULES + '[[rules]]\nsite = "qk"\noperand = "rhs"\nquantize = false\n',
}
# The first elements are read by two operands, the third by one and by something in floating point.
LIVE = LiveSets(
    (
        LiveRegion(24, (("q", "input"), ("fc", "input"))),
        LiveRegion(24, (("qk", "lhs"),)),
        LiveRegion(24, (("qk", "rhs"),)),
        LiveRegion(3, (None, ("qk", "lhs"))),
    ),
    ((0, 1, 2), (0, 1, 3)),
)
LATENCY = LatencyTable.model_validate(
    {
        "schema_version": 1,
        "rest_milliseconds": 0.5,
        "rows": [
            {"site": "*", "milliseconds": 3.0},
            *({"site": "*", name: 8, "milliseconds": 2.0} for name in ("weight", "rhs")),
            {"site": "*", "input": 5, "weight": 5, "milliseconds": 0.7},
            {"site": "qk", "lhs": 2, "rhs": 8, "milliseconds": 0.1},
        ],
    }
)
COSTS = CostModel(SITES, LIVE, LATENCY)


@dataclass(frozen=True)
class Every:
    """All recipes of a space: what each costs, and loses."""

    space: ResolvedSpace
    table: Table
    costs: dict[str, NDArray[np.int64]]
    losses: NDArray[np.float64]


@cache
def every(name: str) -> Every:
    space = resolve_space(parse_space("schema_version = 1\n" + SPACES[name]), SITES)
    rng = np.random.default_rng(7)
    losses = {
        (plan.site, plan.operand.name, config): float(rng.uniform(0.5, 2) * 4.0**-config.bits)
        for plan in space.plans
        for config in space.options_for(plan.site, plan.operand.name)
    }
    problem = AllocationProblem(COSTS, space)
    names = [decision.name for decision in space.decisions]
    recipes = [
        space.sites_for(dict(zip(names, values, strict=True)))
        for values in itertools.product(*(decision.choices for decision in space.decisions))
    ]
    records = [COSTS.cost(recipe).record() for recipe in recipes]
    return Every(
        space,
        problem.table(lambda *option: losses[option]),
        {kind: np.array([record.amount(KINDS[kind].field) for record in records]) for kind in KINDS},
        np.array([sum(losses[s, o, c] for s, operands in r.items() for o, c in operands.items()) for r in recipes]),
    )


@pytest.mark.parametrize("name", SPACES)
@given(
    kinds=st.lists(st.sampled_from(list(KINDS)), min_size=1, max_size=4, unique=True),
    shares=st.lists(st.floats(0, 1), min_size=4, max_size=4),
)
def test_no_recipe_within_all_budgets_loses_less(name: str, kinds: list[str], shares: list[float]) -> None:
    known = every(name)
    most = {
        kind: int(np.quantile(known.costs[kind], share))
        for kind, share in zip(kinds, shares[: len(kinds)], strict=True)
    }
    limits = Limits({kind: most[kind] for kind in KINDS if kind in most})
    within = np.all([known.costs[kind] <= limit for kind, limit in most.items()], axis=0)
    problem = AllocationProblem(COSTS, known.space, limits)
    budget = problem.maximum_cost if limits.limit is None else limits.limit
    if not within.any():
        with pytest.raises(BudgetError, match=r"keeps all budgets at once|cheapest usable recipe"):
            problem.allocate(known.table, budget)
        return
    found = problem.allocate(known.table, budget, gap=0)
    assert found.optimal
    assert found.loss == pytest.approx(known.losses[within].min(), rel=1e-9)
    assert limits.admit(COSTS.cost(known.space.sites_for(found.assignment)).record())
    assert problem.satisfied(found.combinations[None]).all()


def test_what_is_satisfied_is_what_costs_no_more() -> None:
    known = every("free")
    limits = Limits({kind: int(np.median(known.costs[kind])) for kind in KINDS})
    problem = AllocationProblem(COSTS, known.space, limits)
    rng = np.random.default_rng(3)
    drawn = np.array([[rng.integers(len(site.cost)) for site in problem.sites] for _ in range(200)])
    others = [kind for kind in KINDS if kind != "bops"]
    for row, kept in zip(drawn, problem.satisfied(drawn), strict=True):
        cost = COSTS.cost(known.space.sites_for(problem.assignment(row))).record()
        assert kept == all(cost.amount(KINDS[kind].field) <= limits.most[kind] for kind in others)


def test_prices_lead_a_knapsack_towards_other_budgets() -> None:
    """Without them it would take the recipe that is best within the budget of BOPs alone, which is too large."""
    known = every("free")
    sizes = known.costs["size"]
    limits = Limits({"bops": int(known.costs["bops"].max()), "size": int(np.quantile(sizes, 0.2))})
    alone = AllocationProblem(COSTS, known.space)
    problem = AllocationProblem(COSTS, known.space, limits)
    budget = limits.most["bops"]
    (free,) = alone.relaxed(alone.site_losses(known.table), [budget])
    (priced,) = problem.relaxed(problem.site_losses(known.table), [budget])

    def size(combinations: NDArray[np.int64]) -> int:
        return COSTS.cost(known.space.sites_for(problem.assignment(combinations))).weight_bytes

    assert size(free) == sizes.max()
    assert size(priced) < (size(free) + limits.most["size"]) / 2
