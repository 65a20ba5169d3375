"""The recipes that proxies are checked on."""

from __future__ import annotations

import math
from collections import Counter
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from autoq.cost import CostModel, model_cost, uniform_bops
from autoq.optimization.allocation.problem import AllocationProblem
from autoq.optimization.space import ResolvedSpace, load_space, resolve_space
from autoq.recipe import OperandConfig, hash_sites
from autoq.runs.proxy_check.recipes import FRONT, ORIGINS, CheckedRecipe, choose_recipes
from autoq.runs.sensitivity import options_of_space
from autoq.sensitivity.table import Sensitivity, SensitivityTable
from tests.runs.small_run import small_session

SITES = small_session().traced.sites


@cache
def space() -> ResolvedSpace:
    return resolve_space(load_space("vit_w2-8"), SITES)


def table_of(resolved: ResolvedSpace) -> SensitivityTable:
    rng = np.random.default_rng(0)
    scale = {site.name: rng.lognormal() for site in SITES}
    rows = [
        Sensitivity(site, operand, config, scale[site] * 4.0**-config.bits / config.groups**0.3)
        for site, operand, config in options_of_space(resolved)
    ]
    return SensitivityTable("fisher", 8, tuple(rows))


@cache
def chosen(count: int = 40, seed: int = 0) -> list[CheckedRecipe]:
    return choose_recipes(SITES, space(), table_of(space()), count, seed)


def test_half_along_the_front() -> None:
    recipes = chosen()
    assert Counter(r.origin for r in recipes) == {"uniform": 7, "allocated": 13, "disturbed": 10, "mutated": 10}
    assert len({hash_sites(r.sites) for r in recipes}) == len({r.id for r in recipes}) == 40
    assert [r.id for r in recipes if r.origin == "uniform"] == [f"w{bits}a{bits}" for bits in range(2, 9)]
    assert [ORIGINS.index(r.origin) for r in recipes] == sorted(ORIGINS.index(r.origin) for r in recipes)
    for recipe in recipes:
        assert recipe.bops == model_cost(SITES, recipe.sites).bops
        space().assignment_for(recipe.sites)  # is of the space


def test_they_are_spread() -> None:
    least = AllocationProblem(CostModel(SITES), space()).minimum_cost
    most = uniform_bops(SITES, 6, 6)
    for origin in ("allocated", "disturbed"):
        shares = sorted(math.log(r.bops / least) / math.log(most / least) for r in chosen() if r.origin == origin)
        assert 0 <= shares[0] < 0.2
        assert 0.95 < shares[-1] <= 1
        assert max(np.diff(shares)) < 0.25
    anchors = [operands_of(r) for r in chosen() if r.origin == "uniform"]
    kept = [
        max(sum(mutated[o] == anchor[o] for o in mutated) for anchor in anchors) / len(mutated)
        for mutated in (operands_of(r) for r in chosen() if r.origin == "mutated")
    ]
    assert min(kept) < 0.7 < 0.95 < max(kept) < 1


def operands_of(recipe: CheckedRecipe) -> dict[tuple[str, str], OperandConfig]:
    return {(site, o): config for site, operands in recipe.sites.items() for o, config in operands.items()}


def test_what_is_allocated_is_best() -> None:
    table, problem = table_of(space()), AllocationProblem(CostModel(SITES), space())
    losses = problem.table(table.loss)

    def loss(recipe: CheckedRecipe) -> float:
        return sum(table.loss(s, o, config) for s, operands in recipe.sites.items() for o, config in operands.items())

    regret = {
        origin: [
            loss(r) / problem.allocate(losses, r.bops, gap=1e-3).loss
            for r in chosen()
            if r.origin == origin and r.bops <= uniform_bops(SITES, 6, 6)
        ]
        for origin in ORIGINS
    }
    assert max(regret["allocated"]) < 1.01
    assert np.median(regret["disturbed"]) > 1.1
    assert max(regret["disturbed"]) > 3, "some noise is strong"
    assert min(regret["disturbed"]) < 2, "and some weak"


def test_seeds() -> None:
    assert choose_recipes(SITES, space(), table_of(space()), 40, 0) == chosen()
    other = choose_recipes(SITES, space(), table_of(space()), 40, 1)
    same, changed = ([r.sites for r in chosen() if (r.origin in FRONT) is front] for front in (True, False))
    assert [r.sites for r in other if r.origin in FRONT] == same
    assert not any(sites in changed for sites in [r.sites for r in other if r.origin not in FRONT])


@pytest.mark.parametrize("count", [3, 8, 11])
def test_few(count: int) -> None:
    origins = Counter(recipe.origin for recipe in chosen(count))
    assert sum(origins.values()) == count
    assert sum(origins[origin] for origin in FRONT) == (count + 1) // 2


def test_a_space_with_fewer(tmp_path: Path) -> None:
    path = tmp_path / "small.toml"
    path.write_text('schema_version = 1\n[[rules]]\nsite = "head"\nscheme = "uniform"\nbits = [3, 4]\n')
    resolved = resolve_space(load_space(str(path)), SITES)
    recipes = choose_recipes(SITES, resolved, table_of(resolved), 40, 0)
    assert len({hash_sites(recipe.sites) for recipe in recipes}) == len(recipes) == 4
