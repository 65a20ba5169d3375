"""A search space narrowed to what a target has."""

from __future__ import annotations

import logging
from collections.abc import Sequence, Set
from typing import Any, NamedTuple

from autoq.errors import TargetError
from autoq.graph.sites import Operand, Site
from autoq.optimization.space.overrides import Overrides
from autoq.optimization.space.rules import SearchSpace
from autoq.optimization.space.targets import Target

_logger = logging.getLogger(__name__)


class Offer(NamedTuple):
    """What a search space offers an operand.

    Attributes:
        site: of the model.
        operand: of the site.
        choices: values by field, for all fields of a configuration.
    """

    site: Site
    operand: Operand
    choices: dict[str, tuple[Any, ...]]

    @property
    def name(self) -> str:
        """Name of the operand, ``SITE:OPERAND``."""
        return f"{self.site.name}:{self.operand.name}"


def narrow(offers: Sequence[Offer], space: SearchSpace, overrides: Overrides, target: Target) -> list[Offer]:
    """Return what a target leaves of a search space; operands that it has in floating point are not in it.

    Operands that are tied keep the choices that all of them have left.

    Args:
        offers: of the space.
        space: whose ties bind them.
        overrides: of its rules; widths that they fix are kept, or refused.
        target: what there is.

    Raises:
        TargetError: a fixed width is not there, tied operands have no choice in common, or nothing at all is left.
    """
    left = []
    for offer in offers:
        choices = target.narrowed(offer.choices, offer.site, offer.operand)
        if choices is None:
            _logger.info("target %r leaves %s in floating point", target.name, offer.name)
            continue
        bits = overrides.bits(offer.site.name, offer.operand.name)
        if bits is not None and bits not in choices["bits"]:
            there = ", ".join(map(str, choices["bits"]))
            raise TargetError(
                f"target {target.name!r} has no {bits} bits for {offer.name}, which are fixed; it has {there}"
            )
        for field, values in choices.items():
            if not set(values) & set(offer.choices[field]):
                replaced = offer.choices[field]
                _logger.info("target %r: %s has %s %s, not %s", target.name, offer.name, field, values, replaced)
        left.append(Offer(offer.site, offer.operand, choices))
    if not left:
        raise TargetError(f"target {target.name!r} leaves every operand of space {space.name!r} in floating point")
    free = {(each.name, field) for each in offers for field, values in each.choices.items() if len(values) > 1}
    _bind_(left, free, space, target)
    return left


def _bind_(offers: Sequence[Offer], free: Set[tuple[str, str]], space: SearchSpace, target: Target) -> None:
    """Give tied operands the choices that all of them have; ``free`` has the fields that the space left open."""
    groups: dict[tuple[str, str], list[Offer]] = {}
    for offer in offers:
        for field in offer.choices:
            place = (offer.site.name, offer.operand.name)
            ties = [tie for tie in space.ties if tie.binds(*place, field)]
            if ties and (offer.name, field) in free:
                groups.setdefault((ties[-1].decision(*place), field), []).append(offer)
    for (_, field), members in groups.items():
        common = members[0].choices[field]
        for member in members[1:]:
            if not (left := tuple(choice for choice in common if choice in member.choices[field])):
                raise TargetError(
                    f"target {target.name!r} leaves {field} {list(common)} to {members[0].name} and "
                    f"{list(member.choices[field])} to {member.name}, which {space.name!r} ties: take another space"
                )
            common = left
        for member in members:
            member.choices[field] = common
