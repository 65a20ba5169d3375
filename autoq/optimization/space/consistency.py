"""Whether the codes of a site's operands can be multiplied, in all recipes that a space makes."""

from __future__ import annotations

from autoq.errors import RecipeError, SpaceError
from autoq.graph.bases import number_format
from autoq.optimization.space.decisions import OperandPlan, ResolvedSpace
from autoq.optimization.space.field_types import CONFIG_FIELDS

_SCHEME = CONFIG_FIELDS.index("scheme")


def refuse_codes_that_do_not_multiply(resolved: ResolvedSpace) -> None:
    """Refuse a space in which operands of a site may get different bases or number formats.

    Raises:
        SpaceError: names the site, and the remedy.
    """
    _check_bases(resolved)
    by_site: dict[str, list[OperandPlan]] = {}
    for plan in resolved.plans:
        by_site.setdefault(plan.site, []).append(plan)
    for site, plans in by_site.items():
        formats = {number_format(config) for plan in plans for config in plan.table.values_of}
        is_one_decision = len({plan.sources[_SCHEME] for plan in plans}) == 1
        if len(formats) > 1 and not is_one_decision:
            raise SpaceError(
                f"space {resolved.name!r} gives the operands of {site} number formats of their own "
                f"({', '.join(sorted(formats))}), and no hardware multiplies two of them; tie their schemes: "
                '[[ties]] with match = "*", fields = ["scheme"], by = "site"'
            )


def _check_bases(resolved: ResolvedSpace) -> None:
    for plan in resolved.plans:
        try:
            resolved.options_for(plan.site, plan.operand.name)
        except RecipeError as error:
            raise SpaceError(f"space {resolved.name!r}, {plan.site}: {error}") from error
