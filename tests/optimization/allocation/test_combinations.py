"""The combinations of a site against every assignment tried in turn."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from autoq.cost import BOPS, CostModel, site_cost
from autoq.graph.sites import Site
from autoq.optimization.allocation.combinations import SiteCombinations, site_combinations
from autoq.optimization.space import ResolvedSpace, parse_space, resolve_space
from autoq.recipe import OperandConfig, SiteConfig
from tests.optimization.synthetic_sites import linear, norm, product

SITES = [norm("norm", 5, 8), linear("a.fc", 5, 8, 6), product("a.qk", (1, 2, 5, 4), (1, 2, 4, 5)), linear("b", 5, 4, 7)]
BITS = '[[rules]]\nscheme = "uniform"\nbits = [2, 5, 8]\n'
GROUPS = BITS + '[[rules]]\noperand = "input"\nscheme = ["uniform", "instance_groups"]\ngroups = [2, 4]\n'
HADAMARD = BITS + '[[rules]]\noperand = "input"\nscheme = ["uniform", "hadamard"]\nhadamard_block = [2, 8]\n'
SPACES = {
    "bits": BITS,
    "options of two schemes": GROUPS,
    "a norm too": BITS + '[[rules]]\nop = "layer_norm"\nscheme = "uniform"\nbits = [4, 8]\nsymmetric = [true, false]\n',
    "both operands of a site tied": BITS + '[[ties]]\nmatch = "*"\nfields = ["bits"]\nby = "site"\n',
    "sites tied": GROUPS + '[[ties]]\nmatch = "*:input"\nfields = ["groups"]\nby = "all"\n',
    "all tied": BITS + '[[ties]]\nmatch = "*"\nfields = ["bits"]\nby = "all"\n',
    "weights in the basis of their inputs": HADAMARD,
    "one operand in full precision": BITS + '[[rules]]\nsite = "a.*"\noperand = ["weight", "rhs"]\nquantize = false\n',
}


def site_bops(site: Site, config: SiteConfig) -> int:
    return CostModel(SITES).site_cost(BOPS, site, config)


def resolved(text: str) -> tuple[ResolvedSpace, list[str]]:
    """The space, and the decisions that touch several sites."""
    space = resolve_space(parse_space("schema_version = 1\n" + text), SITES)
    return space, [each.name for each in space.decisions if len({site for site, _ in each.targets}) > 1]


def combinations_of(site: Site, space: ResolvedSpace, tied: list[str]) -> SiteCombinations:
    return site_combinations(
        site, [plan for plan in space.plans if plan.site == site.name], space, tied, {"bops": site_bops}
    )


@pytest.mark.parametrize("case", SPACES)
def test_they_are_what_some_assignment_gives(case: str) -> None:
    space, tied = resolved(SPACES[case])
    quantized = [site for site in SITES if any(plan.site == site.name for plan in space.plans)]
    assert len(quantized) == (4 if "norm" in case else 3)
    for site in quantized:
        found = combinations_of(site, space, tied)
        expected = ways_of(site, space, tied)
        ways = list(zip(found.configs, found.ties.tolist(), strict=True))
        assert len(ways) == len(expected)
        assert all(way in expected for way in ways)
        for config, assigned, numbers in zip(found.configs, found.assignments, found.options.tolist(), strict=True):
            assert space.sites_for(first_choices(space) | assigned)[site.name] == config
            offered = [space.options_for(site.name, operand) for operand in config]
            assert [each[number] for each, number in zip(offered, numbers, strict=True)] == list(config.values())
        assert found.cost.tolist() == [site_bops(site, config) for config in found.configs]


def first_choices(space: ResolvedSpace) -> dict[str, Any]:
    return {each.name: each.choices[0] for each in space.decisions}


def ways_of(site: Site, space: ResolvedSpace, tied: list[str]) -> list[tuple[SiteConfig, list[int]]]:
    """Every configuration of a site with every choice of its tied decisions, once each."""
    mine = {each.name: each for each in space.decisions if any(name == site.name for name, _ in each.targets)}
    ways: list[tuple[SiteConfig, list[int]]] = []
    for values in itertools.product(*(each.choices for each in mine.values())):
        chosen = dict(zip(mine, values, strict=True))
        ties = [mine[name].choices.index(chosen[name]) if name in mine else -1 for name in tied]
        way = (dict(space.sites_for(first_choices(space) | chosen)[site.name]), ties)
        if way not in ways:
            ways.append(way)
    return ways


def test_options_without_effect_are_one() -> None:
    """With scheme uniform the number of groups changes nothing: 3 widths and 3 × 2 group counts, not 3 × 2 × 2."""
    space, tied = resolved(GROUPS)
    assert tied == []
    found = combinations_of(SITES[1], space, tied)
    assert len(found.configs) == (3 + 3 * 2) * 3
    # A tie must still take each choice, whatever the scheme.
    space, tied = resolved(SPACES["sites tied"])
    assert len(combinations_of(SITES[1], space, tied).configs) == (3 * 2 + 3 * 2) * 3


def test_bit_operations_are_products_of_widths() -> None:
    """5 × 8 × 6 MACs; a norm multiplies nothing; groups cost extra."""
    config = {"input": OperandConfig(scheme="uniform", bits=5), "weight": OperandConfig(scheme="uniform", bits=2)}
    assert site_bops(SITES[1], config) == 5 * 8 * 6 * 5 * 2
    assert site_bops(SITES[0], {"input": config["input"]}) == 0
    grouped = config | {"input": OperandConfig(scheme="instance_groups", bits=5, groups=4)}
    assert site_bops(SITES[1], grouped) == 5 * 8 * 6 * 5 * 2 + site_cost(SITES[1], grouped).group_bops
    assert site_cost(SITES[1], grouped).group_bops > 0
