"""Proposals over the budget are brought under it, by lowering bits and groups only."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import pytest

from autoq.cost import CostModel, Limits, model_cost
from autoq.graph.sites import Site
from autoq.optimization.space import BudgetRepair, ResolvedSpace, load_space, parse_space, resolve_space
from tests.optimization.synthetic_sites import MODELS


def repair_to(sites: Sequence[Site], space: ResolvedSpace, budget: int) -> BudgetRepair:
    return BudgetRepair(CostModel(sites), space, Limits({"bops": budget}))


def cost(sites: Sequence[Site], space: ResolvedSpace, assignment: dict[str, Any]) -> int:
    return model_cost(sites, space.sites_for(assignment)).bops


def draw(space: ResolvedSpace, rng: random.Random) -> dict[str, Any]:
    return {decision.name: rng.choice(decision.choices) for decision in space.decisions}


@pytest.mark.parametrize("model", sorted(MODELS))
@pytest.mark.parametrize("name", ["vit_w2-8", "bits_only", "deployable_4-8"])
def test_within_the_budget_and_lower_only(name: str, model: str) -> None:
    sites = MODELS[model]()
    space = resolve_space(load_space(name), sites)
    least = cost(sites, space, space.assignment_for(space.cheapest()))
    rng = random.Random(0)
    for share in (1.0, 1.05, 1.5, 3.0):
        budget = int(least * share)
        repair = repair_to(sites, space, budget)
        lowered = 0
        for _ in range(10):
            proposal = draw(space, rng)
            before = dict(proposal)
            repaired = repair(proposal, rng)
            assert proposal == before, "the argument is left alone"
            assert cost(sites, space, repaired) <= budget
            for decision in space.decisions:
                old, new = before[decision.name], repaired[decision.name]
                assert new in decision.choices
                if decision.field in ("bits", "groups"):
                    assert new <= old
                    lowered += new < old
                elif share > 1:
                    assert new == old
        assert lowered


def test_what_is_within_the_budget_stays_as_it_is() -> None:
    sites = MODELS["vit"]()
    space = resolve_space(load_space("vit_w2-8"), sites)
    proposal = draw(space, random.Random(1))
    repair = repair_to(sites, space, cost(sites, space, proposal))
    assert repair(proposal, random.Random(0)) == proposal
    tighter = repair_to(sites, space, cost(sites, space, proposal) - 1)
    assert tighter(proposal, random.Random(0)) != proposal


def test_no_more_is_lowered_than_needed() -> None:
    """One step above: each step of these lowers the cost by less than a tenth of it."""
    sites = MODELS["vit"]()
    space = resolve_space(load_space("bits_only"), sites)
    proposal = space.uniform_assignment(8)
    budget = cost(sites, space, space.uniform_assignment(4))
    for seed in range(5):
        repaired = repair_to(sites, space, budget)(proposal, random.Random(seed))
        assert 0.9 * budget < cost(sites, space, repaired) <= budget


def test_the_random_generator_decides_and_nothing_else() -> None:
    sites = MODELS["vit"]()
    space = resolve_space(load_space("vit_w2-8"), sites)
    budget = cost(sites, space, space.uniform_assignment(3))
    proposal = space.uniform_assignment(8, 8)
    first, again, other = (repair_to(sites, space, budget)(proposal, random.Random(seed)) for seed in (5, 5, 6))
    assert first == again != other


def test_an_unreachable_budget_gives_the_cheapest() -> None:
    sites = MODELS["vit"]()
    space = resolve_space(load_space("bits_only"), sites)
    repaired = repair_to(sites, space, 1)(space.uniform_assignment(8), random.Random(0))
    assert space.sites_for(repaired) == space.cheapest()


def test_a_scheme_that_needs_groups_gives_way_where_only_that_is_within_the_budget() -> None:
    sites = MODELS["vit"]()
    space = resolve_space(
        parse_space(
            'schema_version = 1\n[[rules]]\nscheme = "uniform"\nbits = [2, 4]\n'
            '[[rules]]\nop = "linear"\noperand = "input"\nscheme = ["instance_groups", "uniform"]\ngroups = [4, 8]\n'
        ),
        sites,
    )
    least = cost(sites, space, space.assignment_for(space.cheapest()))
    grouped = space.uniform_assignment(2, 4)
    assert cost(sites, space, grouped) > least
    repair = repair_to(sites, space, least)
    assert cost(sites, space, repair(grouped, random.Random(0))) == least
    roomier = repair_to(sites, space, (least + cost(sites, space, grouped)) // 2)
    repaired = roomier(grouped, random.Random(0))
    assert "instance_groups" in {value for name, value in repaired.items() if name.endswith(".scheme")}
