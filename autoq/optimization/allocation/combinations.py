"""The combinations of options that the operands of a site can have: what an allocation chooses from."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from autoq.graph.bases import share_basis
from autoq.graph.sites import Site
from autoq.optimization.allocation.knapsack import IntArray
from autoq.optimization.space import Decision, OperandPlan, ResolvedSpace
from autoq.recipe import SiteConfig


@dataclass(frozen=True, eq=False)
class SiteCombinations:
    """The combinations of options that the operands of one site can have.

    Attributes:
        site: its name.
        assignments: for each combination, values of the decisions that touch the site: a part of an assignment.
        configs: for each combination, the site's canonical operand configurations.
        cost: (combinations,) of the site, of the kind that the front is over.
        others: (combinations,) its other costs that add up and are limited, by kind.
        bits: (combinations, operands) widths of the quantized operands.
        options: (combinations, operands) for each quantized operand, in the order of the space's plans, the number of
            its option.
        ties: (combinations, tied decisions) the choice that a combination takes of each of the decisions
            that tie sites;
            −1 for those that do not touch the site.
    """

    site: str
    assignments: tuple[Mapping[str, Any], ...]
    configs: tuple[SiteConfig, ...]
    cost: IntArray
    others: Mapping[str, IntArray]
    bits: IntArray
    options: IntArray
    ties: IntArray


CostsOfSite = Mapping[str, Callable[[Site, SiteConfig], int]]
"""Kind of cost to what a site contributes to it."""
_Partial = tuple[dict[str, Any], tuple[int, ...]]
"""A part of an assignment, and the numbers of the options that it gives to operands."""


def site_combinations(
    site: Site, plans: Sequence[OperandPlan], space: ResolvedSpace, tied: Sequence[str], costs: CostsOfSite
) -> SiteCombinations:
    """List the combinations of a site: those with the same options are one, unless a tie tells them apart.

    Args:
        site: to list the combinations of.
        plans: of its quantized operands, at least one.
        space: whose decisions set the operands.
        tied: names of the decisions that touch several sites.
        costs: the first is what the front is over.
    """
    decisions = {decision.name: decision for decision in space.decisions}
    options = [space.options_for(plan.site, plan.operand.name) for plan in plans]
    numbered = [{config: number for number, config in enumerate(listed)} for listed in options]
    merged: list[_Partial] = [({}, ())]
    for plan, known in zip(plans, numbered, strict=True):
        merged = [
            (assigned | partial, (*numbers, *number))
            for (assigned, numbers), (partial, number) in itertools.product(merged, _ways(plan, known, decisions))
            if all(assigned.get(name, value) == value for name, value in partial.items())
        ]
    distinct: dict[Any, _Partial] = {}
    for assigned, numbers in merged:
        distinct.setdefault((numbers, *(assigned.get(name) for name in tied)), (assigned, numbers))
    names = [plan.operand.name for plan in plans]
    operands = [plan.operand for plan in plans]
    configs = [
        share_basis(
            operands,
            {name: listed[number] for name, listed, number in zip(names, options, numbers, strict=True)},
        )
        for _, numbers in distinct.values()
    ]
    options_of = [[known[config[name]] for name, known in zip(names, numbered, strict=True)] for config in configs]
    ties = [
        [decisions[name].choices.index(assigned[name]) if name in assigned else -1 for name in tied]
        for assigned, _ in distinct.values()
    ]
    return SiteCombinations(
        site.name,
        tuple(assigned for assigned, _ in distinct.values()),
        tuple(configs),
        *_amounts(site, configs, costs),
        np.array([[config[name].bits for name in names] for config in configs], dtype=np.int64),
        np.array(options_of, dtype=np.int64),
        np.array(ties, dtype=np.int64).reshape(len(distinct), len(tied)),
    )


def _ways(plan: OperandPlan, numbered: Mapping[Any, int], decisions: Mapping[str, Decision]) -> list[_Partial]:
    """List the ways to give an operand one of its options that differ in the option or in a shared decision."""
    names = [name for name, _ in plan.sources if name is not None]
    shared = [name for name in names if len(decisions[name].targets) > 1]
    ways: dict[Any, _Partial] = {}
    for values in itertools.product(*(decisions[name].choices for name in names)):
        assigned = dict(zip(names, values, strict=True))
        number = numbered[plan.config(assigned)]
        ways.setdefault((number, *(assigned[name] for name in shared)), (assigned, (number,)))
    return list(ways.values())


def _amounts(site: Site, configs: Sequence[SiteConfig], costs: CostsOfSite) -> tuple[IntArray, dict[str, IntArray]]:
    """Compute the first cost of every combination, and all others by name."""
    found = {name: np.array([cost(site, each) for each in configs], dtype=np.int64) for name, cost in costs.items()}
    first = next(iter(costs))
    return found.pop(first), found
