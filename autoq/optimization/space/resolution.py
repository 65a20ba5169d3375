"""Resolution: the rules and ties of a search space, matched against the sites of a model."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Any

from autoq.errors import SpaceError
from autoq.graph.sites import Operand, Site
from autoq.optimization.space.consistency import refuse_codes_that_do_not_multiply
from autoq.optimization.space.decisions import Decision, OperandPlan, OptionTable, ResolvedSpace
from autoq.optimization.space.field_types import CONFIG_FIELDS, FIT
from autoq.optimization.space.narrowing import Offer, narrow
from autoq.optimization.space.overrides import Overrides
from autoq.optimization.space.rules import Rule, SearchSpace
from autoq.optimization.space.targets import Target
from autoq.quantizers import quantizer_class
from autoq.validation import did_you_mean

logger = logging.getLogger(__name__)

_DEFAULTS: dict[str, tuple[Any, ...]] = {
    "granularity": ("tensor",),
    "symmetric": (False,),
    "groups": (1,),
    "log_base_numerator": (FIT,),
    "overflow": ("zero_code",),
    "hadamard_block": (1,),
}
Quantized = list[tuple[Site, Operand, OptionTable]]


def resolve_space(
    space: SearchSpace, sites: Sequence[Site], overrides: Overrides | None = None, target: Target | None = None
) -> ResolvedSpace:
    """Find the decisions that ``space`` leaves open for a model.

    Args:
        space: rules and ties.
        sites: of the model, in the order of its forward pass.
        overrides: of the rules, operand by operand; None: there are none. Ties do not bind what they fix.
        target: what there is where recipes are to run, to which the rules are narrowed; None: everything.

    Raises:
        SpaceError: an operand is given fields but no scheme or no bits, tied decisions offer different choices, codes
            of a site's operands cannot be multiplied, nothing at all is quantized, or an override is about nothing.
        TargetError: the target has nothing of what is fixed or tied.
    """
    overrides = overrides or Overrides()
    offers = _apply_rules(space, sites, overrides)
    if target is not None:
        offers = narrow(offers, space, overrides, target)
    quantized = _tabulate(offers)
    groups = _group(space, quantized)
    decisions: list[Decision] = []
    decided: dict[tuple[str, str, str], str] = {}
    for name, members in groups.items():
        decision = _decide(space, name, members)
        decisions.append(decision)
        decided |= {(site, operand, decision.field): decision.name for site, operand in decision.targets}
    plans = []
    for site, operand, table in quantized:
        names = [decided.get((site.name, operand.name, field)) for field in CONFIG_FIELDS]
        fixed = [table.distinct[field][0] for field in CONFIG_FIELDS]
        plans.append(OperandPlan(site.name, operand, table, tuple(zip(names, fixed, strict=True))))
    resolved = ResolvedSpace(space.name, tuple(decisions), tuple(plans), _image(sites, quantized))
    refuse_codes_that_do_not_multiply(resolved)
    logger.info(
        "space %r: %d decisions over %d operands, 10^%.1f assignments",
        *(space.name, len(decisions), len(plans), resolved.size_log10),
    )
    return resolved


def _image(sites: Sequence[Site], quantized: Quantized) -> tuple[str, str] | None:
    """Find the input of the first layer with weights, if it is quantized."""
    first = next((site for site in sites if site.macs and any(operand.is_weight for operand in site.operands)), None)
    inputs = ((site.name, operand.name) for site, operand, _ in quantized if site is first and not operand.is_weight)
    return next(inputs, None)


def _apply_rules(space: SearchSpace, sites: Sequence[Site], overrides: Overrides) -> list[Offer]:
    weighted = [site.name for site in sites if any(operand.name == "weight" for operand in site.operands)]
    positions = {"first": weighted[0], "last": weighted[-1]} if weighted else {}
    used: set[int] = set()
    ruled: list[tuple[str, str]] = []
    offers: list[Offer] = []
    for site in sites:
        for operand in site.operands:
            choices = _choices(space, site, operand, positions, used)
            if choices is None:
                continue
            ruled.append((site.name, operand.name))
            if overrides.excludes(*ruled[-1]):
                continue
            if (bits := overrides.bits(*ruled[-1])) is not None:
                choices |= _of_width(choices, bits, f"{site.name}:{operand.name}")
            offers.append(Offer(site, operand, choices))
    overrides.refuse_unused([(site.name, operand.name) for site in sites for operand in site.operands], ruled)
    if not offers:
        why = "everything is excluded" if ruled else "no rule matches any of its operands"
        raise SpaceError(f"space {space.name!r} quantizes nothing in this model: {why}")
    _warn_of_unused(space, sites, used)
    return offers


def _tabulate(offers: Sequence[Offer]) -> Quantized:
    """Make the options of each operand; those alike in all that options depend on, as in blocks, share them."""
    tables: dict[Any, OptionTable] = {}
    quantized: Quantized = []
    for site, operand, choices in offers:
        key = (*choices.values(), operand.shape, operand.layout, operand.is_weight)
        if key not in tables:
            tables[key] = OptionTable(choices, operand)
        quantized.append((site, operand, tables[key]))
    return quantized


def _choices(
    space: SearchSpace, site: Site, operand: Operand, positions: dict[str, str], used: set[int]
) -> dict[str, tuple[Any, ...]] | None:
    """List what the rules offer an operand, field by field, and note their numbers; None: it is not quantized."""
    choices: dict[str, tuple[Any, ...]] = {}
    quantize: bool | None = None
    for number, rule in enumerate(space.rules, start=1):
        if _matches(rule, site, operand, positions):
            used.add(number)
            choices |= rule.choices_for(operand)
            quantize = quantize if rule.quantize is None else rule.quantize
    if quantize is False or (quantize is None and not choices):
        return None
    for needed in ("scheme", "bits"):
        if needed not in choices:
            raise SpaceError(
                f"space {space.name!r} gives {site.name}:{operand.name} no {needed}; "
                f"set it in a rule that matches, or quantize = false"
            )
    return {field: choices.get(field, _DEFAULTS.get(field, ())) for field in CONFIG_FIELDS}


def _of_width(choices: dict[str, tuple[Any, ...]], bits: int, name: str) -> dict[str, tuple[Any, ...]]:
    """Return one width for an operand, and the schemes that can have it."""
    schemes = tuple(scheme for scheme in choices["scheme"] if quantizer_class(scheme).has_width(bits))
    if not schemes:
        raise SpaceError(f"{name} cannot be fixed at {bits} bits: {', '.join(choices['scheme'])} has another width")
    return {"bits": (bits,), "scheme": schemes}


def _matches(rule: Rule, site: Site, operand: Operand, positions: dict[str, str]) -> bool:
    return (
        rule.matches(site, operand)
        and (rule.position is None or positions.get(rule.position) == site.name)
        and (rule.site is None or any(fnmatchcase(site.name, glob) for glob in rule.site))
    )


def _warn_of_unused(space: SearchSpace, sites: Sequence[Site], used: set[int]) -> None:
    for number, rule in enumerate(space.rules, start=1):
        if number in used:
            continue
        if rule.site is None:
            # Rules by kind are there for models that have such operands; only a name can be mistyped.
            logger.debug("space %r: rule %d matches nothing in this model", space.name, number)
        else:
            near = did_you_mean(rule.site[0], [site.name for site in sites])
            logger.warning(
                "space %r: rule %d (site = %r) matches nothing in this model.%s",
                *(space.name, number, ", ".join(rule.site), near),
            )


def _group(space: SearchSpace, quantized: Quantized) -> dict[str, list[tuple[str, str, str, OptionTable]]]:
    """Group what is open by decision, ties applied: name to the (site, operand, field, options) that it sets."""
    groups: dict[str, list[tuple[str, str, str, OptionTable]]] = {}
    used: set[int] = set()
    for site, operand, table in quantized:
        for field in CONFIG_FIELDS:
            if len(table.distinct[field]) < 2:
                continue
            name = f"{site.name}:{operand.name}"
            for number, tie in enumerate(space.ties, start=1):
                if tie.binds(site.name, operand.name, field):
                    used.add(number)
                    name = tie.decision(site.name, operand.name)
            groups.setdefault(f"{name}.{field}", []).append((site.name, operand.name, field, table))
    for number, tie in enumerate(space.ties, start=1):
        if number not in used:
            logger.warning(
                "space %r: tie %d (match = %r) matches no free %s in this model",
                *(space.name, number, ", ".join(tie.match), " or ".join(tie.fields)),
            )
    return groups


def _decide(space: SearchSpace, name: str, members: list[tuple[str, str, str, OptionTable]]) -> Decision:
    site, operand, field, table = members[0]
    for other_site, other_operand, _, other in members[1:]:
        if set(other.choices[field]) != set(table.choices[field]):
            raise SpaceError(
                f"space {space.name!r} ties {field} of {site}:{operand}, {list(table.choices[field])}, to that of "
                f"{other_site}:{other_operand}, {list(other.choices[field])}; tied decisions need the same choices"
            )
    choices = tuple(c for c in table.choices[field] if any(c in member[3].distinct[field] for member in members))
    targets = tuple((member[0], member[1]) for member in members)
    # A tie that binds one operand only is no tie; the operand's own name says more.
    return Decision(name if len(members) > 1 else f"{site}:{operand}.{field}", field, choices, targets)
