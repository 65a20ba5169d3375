"""A resolved search space as JSON data, and back: trials become recipes again without the model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import TypeAdapter

from autoq.graph.sites import Operand
from autoq.optimization.space.decisions import Decision, OperandPlan, OptionTable, ResolvedSpace

_OPERAND = TypeAdapter(Operand)


def space_to_json(space: ResolvedSpace) -> dict[str, Any]:
    """Return a space as plain data; operands that share options name the same table."""
    tables = {id(plan.table): plan.table for plan in space.plans}
    numbers = {key: number for number, key in enumerate(tables)}
    return {
        "name": space.name,
        "decisions": [vars(decision) for decision in space.decisions],
        "tables": [table.choices for table in tables.values()],
        "plans": [
            {
                "site": plan.site,
                "operand": _OPERAND.dump_python(plan.operand, mode="json"),
                "table": numbers[id(plan.table)],
                "sources": plan.sources,
            }
            for plan in space.plans
        ],
        "image": space.image,
    }


def space_from_json(document: Mapping[str, Any]) -> ResolvedSpace:
    """Return the space that :func:`space_to_json` wrote.

    Raises:
        KeyError, TypeError, ValueError: the document is not one of those.
    """
    tables: dict[int, OptionTable] = {}
    plans = []
    for plan in document["plans"]:
        operand, number = _OPERAND.validate_python(plan["operand"]), plan["table"]
        if number not in tables:
            choices = {field: tuple(listed) for field, listed in document["tables"][number].items()}
            tables[number] = OptionTable(choices, operand)
        sources = tuple((name, fixed) for name, fixed in plan["sources"])
        plans.append(OperandPlan(plan["site"], operand, tables[number], sources))
    decisions = tuple(
        Decision(d["name"], d["field"], tuple(d["choices"]), tuple((site, operand) for site, operand in d["targets"]))
        for d in document["decisions"]
    )
    image = document["image"]
    return ResolvedSpace(document["name"], decisions, tuple(plans), None if image is None else (image[0], image[1]))
