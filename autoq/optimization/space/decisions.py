"""A search space resolved for a model: the decisions that are open, and the recipe that an assignment makes."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from autoq.errors import SpaceError
from autoq.graph.bases import in_basis_of, options_in_all_bases, share_basis
from autoq.graph.canonical import canonical
from autoq.graph.sites import Operand
from autoq.optimization.space.field_types import CONFIG_FIELDS, FIT
from autoq.recipe import OperandConfig, SiteConfig

Assignment = Mapping[str, Any]
"""Decision name to one of its choices."""


@dataclass(frozen=True)
class Decision:
    """One free choice of the search, one Optuna parameter.

    Attributes:
        name: ``blocks.3.attn.qkv:weight.bits``; tied ones ``blocks.3.attn.qk:*.bits`` (by site),
            ``*.attn.qk:lhs.bits`` (by operand) or ``*.attn.qk:*.bits`` (all).
        field: the field of ``OperandConfig`` that it sets.
        choices: two or more values, plain JSON scalars, in the order of the file.
        targets: (site, operand) of every operand that it sets.
    """

    name: str
    field: str
    choices: tuple[Any, ...]
    targets: tuple[tuple[str, str], ...]


class OptionTable:
    """The options of one kind of operand: every tuple of field values, and the configuration that each one means.

    Attributes:
        choices: field to all its choices, for all of ``CONFIG_FIELDS``.
        configs: values in the order of ``CONFIG_FIELDS`` to canonical configuration.
        distinct: field to the choices that differ in effect; one where the field changes nothing.
    """

    def __init__(self, choices: Mapping[str, tuple[Any, ...]], operand: Operand) -> None:
        """Find the configuration of every tuple of values for ``operand``."""
        self.choices = dict(choices)
        self.configs = {
            values: canonical(_config(values), operand)
            for values in itertools.product(*(choices[field] for field in CONFIG_FIELDS))
        }
        self.distinct = {field: self._distinct(index, field) for index, field in enumerate(CONFIG_FIELDS)}

    def _distinct(self, index: int, field: str) -> tuple[Any, ...]:
        effects: dict[tuple[OperandConfig, ...], Any] = {}
        for choice in self.choices[field]:
            effect = tuple(config for values, config in self.configs.items() if values[index] == choice)
            effects.setdefault(effect, choice)
        return tuple(effects.values())

    @cached_property
    def values_of(self) -> dict[OperandConfig, list[tuple[Any, ...]]]:
        """Canonical configuration to the tuples of values that mean it."""
        inverse: dict[OperandConfig, list[tuple[Any, ...]]] = {}
        for values, config in self.configs.items():
            inverse.setdefault(config, []).append(values)
        return inverse


def _config(values: tuple[Any, ...]) -> OperandConfig:
    fields = dict(zip(CONFIG_FIELDS, values, strict=True))
    if fields["log_base_numerator"] == FIT:
        fields["log_base_numerator"] = None
    return OperandConfig(**fields)


@dataclass(frozen=True, eq=False)
class OperandPlan:
    """Where the fields of one quantized operand come from.

    Attributes:
        site: name of the site.
        operand: the operand.
        table: its options.
        sources: for each of ``CONFIG_FIELDS`` the name of a decision, or None and the fixed value.
    """

    site: str
    operand: Operand
    table: OptionTable
    sources: tuple[tuple[str | None, Any], ...]

    def config(self, assignment: Assignment) -> OperandConfig:
        """Look up the operand's configuration under ``assignment``."""
        return self.table.configs[tuple(fixed if name is None else assignment[name] for name, fixed in self.sources)]


@dataclass(frozen=True, eq=False)
class ResolvedSpace:
    """The decisions that a space leaves open for one model.

    Attributes:
        name: of the space, for messages.
        decisions: in the order of the model's sites.
        plans: the quantized operands, in the order of the model's sites.
        image: (site, operand) of the input of the first layer with weights, if it is quantized.
    """

    name: str
    decisions: tuple[Decision, ...]
    plans: tuple[OperandPlan, ...]
    image: tuple[str, str] | None = None

    @property
    def size_log10(self) -> float:
        """Log10 of the number of assignments (some of which may make the same recipe)."""
        return sum(math.log10(len(decision.choices)) for decision in self.decisions)

    def options_for(self, site: str, operand: str) -> tuple[OperandConfig, ...]:
        """List the options of this operand, in canonical form; none if it stays in floating point.

        A weight has those of the bases of its input's options too.
        """
        return self._options.get((site, operand), ())

    def sites_for(self, assignment: Assignment) -> dict[str, SiteConfig]:
        """Make the recipe of an assignment, in canonical form.

        Raises:
            SpaceError: a decision is missing or unknown, or gets a value that it does not offer.
        """
        self._check(assignment)
        return {site: self.site_config(site, assignment) for site in self._plans_of}

    def site_config(self, site: str, assignment: Assignment) -> SiteConfig:
        """Make one site's part of a recipe, in canonical form; the assignment is not checked."""
        chosen = {plan.operand.name: plan.config(assignment) for plan in self._plans_of[site]}
        return share_basis(self._operands[site], chosen)

    def assignment_for(self, sites: Mapping[str, SiteConfig]) -> dict[str, Any]:
        """Find an assignment that makes the recipe ``sites``: how a recipe becomes a trial.

        Raises:
            SpaceError: the space cannot make this recipe.
        """
        asked = {(site, operand) for site, operands in sites.items() for operand in operands}
        if strange := sorted(asked - self._options.keys()):
            raise SpaceError(f"{':'.join(strange[0])} stays in floating point in space {self.name!r}")
        ways = [(plan, self._ways(plan, sites.get(plan.site, {}))) for plan in self.plans]
        taken: dict[str, Any] = {}
        # Operands with the fewest ways come first: a field without effect on one operand may matter to a tied one.
        for plan, found in sorted(ways, key=lambda way: len(way[1])):
            for values in found:
                chosen = {
                    name: value for (name, _), value in zip(plan.sources, values, strict=True) if name is not None
                }
                if all(
                    taken.get(name, value) == value and value in self._by_name[name].choices
                    for name, value in chosen.items()
                ):
                    taken |= chosen
                    break
            else:
                config = sites.get(plan.site, {}).get(plan.operand.name)
                shown = "floating point" if config is None else config.to_json()
                raise SpaceError(f"space {self.name!r} does not offer {shown} to {plan.site}:{plan.operand.name}")
        return {decision.name: taken[decision.name] for decision in self.decisions}

    def _ways(self, plan: OperandPlan, site: SiteConfig) -> list[tuple[Any, ...]]:
        """List the tuples of values that give an operand its configuration in a site of a recipe."""
        name, operands = plan.operand.name, self._operands[plan.site]
        if name not in site:
            return []
        wanted = {each.name: canonical(site[each.name], each) for each in operands if each.name in site}
        return [
            values
            for config, listed in plan.table.values_of.items()
            if in_basis_of(operands, wanted, name, config) == wanted[name]
            for values in listed
        ]

    def uniform_assignment(self, bits: int, groups: int = 1) -> dict[str, Any]:
        """Take the choice nearest to ``bits`` or ``groups`` everywhere; fitted log bases, first choices elsewhere."""
        assignment: dict[str, Any] = {}
        for decision in self.decisions:
            match decision.field:
                case "bits":
                    assignment[decision.name] = _nearest(decision.choices, bits)
                case "groups":
                    assignment[decision.name] = _nearest(decision.choices, groups)
                case _:
                    assignment[decision.name] = FIT if FIT in decision.choices else decision.choices[0]
        return assignment

    def cheapest(self) -> dict[str, SiteConfig]:
        """Make the recipe with the least bits, the fewest groups and no transforms, wherever the space allows it."""
        assignment = self.uniform_assignment(0, 0)
        plans = {(plan.site, plan.operand.name): plan for plan in self.plans}
        # A scheme or granularity may come with more groups than another, or with a transform.
        for decision in self.decisions:
            if decision.field not in ("bits", "groups"):
                ways = [assignment | {decision.name: choice} for choice in decision.choices]
                configs = [[plans[target].config(way) for target in decision.targets] for way in ways]
                costs = [sum(c.bits + c.groups + c.hadamard_block - 1 for c in chosen) for chosen in configs]
                assignment = ways[costs.index(min(costs))]
        return self.sites_for(assignment)

    @cached_property
    def _plans_of(self) -> dict[str, list[OperandPlan]]:
        plans: dict[str, list[OperandPlan]] = {}
        for plan in self.plans:
            plans.setdefault(plan.site, []).append(plan)
        return plans

    @cached_property
    def _options(self) -> dict[tuple[str, str], tuple[OperandConfig, ...]]:
        own: dict[str, dict[str, tuple[OperandConfig, ...]]] = {}
        for plan in self.plans:
            own.setdefault(plan.site, {})[plan.operand.name] = tuple(plan.table.values_of)
        return {
            (site, name): options
            for site, by_name in own.items()
            for name, options in options_in_all_bases(self._operands[site], by_name).items()
        }

    @cached_property
    def _operands(self) -> dict[str, list[Operand]]:
        operands: dict[str, list[Operand]] = {}
        for plan in self.plans:
            operands.setdefault(plan.site, []).append(plan.operand)
        return operands

    @cached_property
    def _by_name(self) -> dict[str, Decision]:
        return {decision.name: decision for decision in self.decisions}

    def _check(self, assignment: Assignment) -> None:
        for decision in self.decisions:
            if decision.name not in assignment:
                raise SpaceError(f"space {self.name!r}: nothing is assigned to {decision.name!r}")
            value = assignment[decision.name]
            if value not in decision.choices:
                offered = ", ".join(map(str, decision.choices))
                raise SpaceError(f"space {self.name!r}: {decision.name!r} cannot be {value!r}, only {offered}")
        if unknown := assignment.keys() - self._by_name.keys():
            raise SpaceError(f"space {self.name!r} has no decision {min(unknown)!r} on this model")


def _nearest(choices: tuple[int, ...], wanted: int) -> int:
    return min(choices, key=lambda choice: (abs(choice - wanted), choice))
