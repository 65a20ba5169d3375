"""Search spaces narrowed to targets."""

from __future__ import annotations

import pytest

from autoq.errors import TargetError
from autoq.optimization.space import (
    ResolvedSpace,
    SearchSpace,
    load_space,
    load_target,
    parse_space,
    resolve_space,
    shipped_spaces,
    shipped_targets,
)
from autoq.optimization.space.loading import TARGETS
from autoq.optimization.space.overrides import Overrides
from autoq.quantizers import quantizer_class
from tests.optimization.synthetic_sites import linear, vit

SITES = vit()
FITTING = {
    "onnxruntime_8": "onnxruntime-avx2",
    "weights_2-8": "any",
    "integer_8": "any",
    "fpga_2-8": "fpga",
    "deployable_4-8": "int8-int4",
}
"""Spaces that offer what a target has, and nothing else."""


def options(space: ResolvedSpace) -> dict[str, tuple[object, ...]]:
    return {f"{plan.site}:{plan.operand.name}": space.options_for(plan.site, plan.operand.name) for plan in space.plans}


def resolve(space: SearchSpace, target: str, fix: str = "") -> ResolvedSpace:
    return resolve_space(space, SITES, Overrides.parse([fix] if fix else []), load_target(target))


@pytest.mark.parametrize(("space", "target"), FITTING.items())
def test_spaces_for_a_target_are_left_as_they_are(space: str, target: str) -> None:
    found, expected = resolve(load_space(space), target), resolve_space(load_space(space), SITES)
    assert options(found) == options(expected)
    assert [each.name for each in found.decisions] == [each.name for each in expected.decisions]


@pytest.mark.parametrize("target", shipped_targets())
@pytest.mark.parametrize("space", shipped_spaces())
def test_every_space_fits_every_target(space: str, target: str) -> None:
    found, there = resolve(load_space(space), target), load_target(target)
    by_name = {site.name: site for site in SITES}
    for plan in found.plans:
        for config in found.options_for(plan.site, plan.operand.name):
            fields = quantizer_class(config.scheme).config_fields
            assert there.objection(config, fields, by_name[plan.site], plan.operand) is None


def test_tied_operands_keep_what_all_have() -> None:
    found = resolve(load_space("deployable_4-8"), "onnxruntime-avx2")
    weighted = [plan for plan in found.plans if plan.operand.is_weight]
    for plan in weighted:
        for operand in ("weight", "input"):
            assert {each.bits for each in found.options_for(plan.site, operand)} == {4}, "weights have at most 7"
    assert {decision.field for decision in found.decisions} == {"bits"}, "products of activations are free"


def test_ties_without_a_common_choice_are_refused() -> None:
    space = parse_space(
        'schema_version = 1\n[[rules]]\nscheme = "uniform"\nbits = [7, 8]\n'
        '[[ties]]\nmatch = "*"\nfields = ["bits"]\nby = "site"\n'
    )
    operations = '[[operations]]\noperand = "input"\nbits = 8\n[[operations]]\noperand = "weight"\nbits = 7\n'
    with pytest.raises(TargetError, match=r"target 'mine' leaves bits \[8\] to fc:input and \[7\] to fc:weight, which"):
        resolve_space(space, [linear("fc", 5, 8, 8)], None, TARGETS.parse(f"schema_version = 1\n{operations}", "mine"))


def test_fixed_widths_are_refused_and_not_replaced() -> None:
    assert resolve(load_space("vit_w2-8"), "int8-int4", "head:input=8").plans
    with pytest.raises(TargetError, match="has no 6 bits for head:input, which are fixed; it has 4, 8"):
        resolve(load_space("vit_w2-8"), "int8-int4", "head:input=6")


def test_a_target_without_integers_is_refused() -> None:
    nothing = TARGETS.parse("schema_version = 1\n[[operations]]\nquantize = false\n", "nothing")
    with pytest.raises(TargetError, match="leaves every operand of space 'bits_only' in floating point"):
        resolve_space(load_space("bits_only"), SITES, None, nothing)
