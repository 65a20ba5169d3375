"""A resolved space that comes back from a file makes the same recipes."""

from __future__ import annotations

import json
import random

import pytest

from autoq.optimization.space import load_space, resolve_space
from autoq.optimization.space.stored import space_from_json, space_to_json
from tests.runs.small_run import small_session


@pytest.mark.parametrize("name", ["vit_w2-8", "groups_only", "fpga_2-8"])
def test_round_trip(name: str) -> None:
    space = resolve_space(load_space(name), small_session().traced.sites)
    again = space_from_json(json.loads(json.dumps(space_to_json(space))))
    assert (again.name, again.decisions, again.image) == (space.name, space.decisions, space.image)
    assert [(p.site, p.operand, p.sources) for p in again.plans] == [
        (p.site, p.operand, p.sources) for p in space.plans
    ]
    rng = random.Random(0)
    for _ in range(20):
        assignment = {decision.name: rng.choice(decision.choices) for decision in space.decisions}
        assert again.sites_for(assignment) == space.sites_for(assignment)
    assert space_to_json(again) == space_to_json(space)


def test_operands_that_are_alike_share_their_options() -> None:
    space = resolve_space(load_space("vit_w2-8"), small_session().traced.sites)
    document = space_to_json(space)
    assert len(document["tables"]) < len(document["plans"])
    again = space_from_json(json.loads(json.dumps(document)))
    assert len({id(plan.table) for plan in again.plans}) == len(document["tables"])
