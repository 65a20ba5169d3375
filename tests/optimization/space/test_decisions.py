"""Resolved spaces: assignments, canonical recipes."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoq.errors import SpaceError
from autoq.graph.sites import Site
from autoq.optimization.space import ResolvedSpace, load_space, parse_space, resolve_space, shipped_spaces
from autoq.recipe import OperandConfig, hash_sites
from tests.optimization.synthetic_sites import linear, product, vit


def resolve(text: str, sites: Sequence[Site]) -> ResolvedSpace:
    return resolve_space(parse_space("schema_version = 1\n" + text), sites)


def random_assignment(resolved: ResolvedSpace, seed: int) -> dict[str, Any]:
    rng = random.Random(seed)
    return {decision.name: rng.choice(decision.choices) for decision in resolved.decisions}


FC = linear("fc", 5, 8, 8)


UNIFORM = '[[rules]]\nscheme = "uniform"\nbits = [4, 8]\n'


GROUPS = '[[rules]]\noperand = "input"\nscheme = "instance_groups"\nbits = 4\ngroups = [1, 4, 8, 16]\n'


def test_equal_recipes_hash_equal() -> None:
    text = GROUPS.replace('"instance_groups"', '["uniform", "instance_groups", "adalog"]')
    resolved = resolve(text + 'log_base_numerator = ["fit", 37]\n', [FC])
    names = ("fc:input.scheme", "fc:input.groups", "fc:input.log_base_numerator")

    def recipe(*values: Any) -> str:
        return hash_sites(resolved.sites_for(dict(zip(names, values, strict=True))))

    assert recipe("uniform", 1, "fit") == recipe("uniform", 8, 37) == recipe("instance_groups", 1, 37)
    assert recipe("adalog", 1, 37) == recipe("adalog", 8, 37) != recipe("adalog", 1, "fit")
    assert recipe("instance_groups", 4, "fit") != recipe("instance_groups", 8, "fit")


def test_head_granularity_falls_back_where_there_are_no_heads() -> None:
    resolved = resolve(UNIFORM + 'granularity = "head"\n', [FC, product("p", (1, 2, 5, 4), (1, 2, 4, 5))])
    configs = resolved.cheapest()
    assert configs["fc"]["input"].granularity == "tensor"
    assert configs["p"]["lhs"].granularity == "head"


def test_static_groups() -> None:
    text = '[[rules]]\noperand = "input"\nscheme = "uniform"\ngranularity = "group"\nbits = 4\ngroups = [1, 4]\n'
    resolved = resolve(text, [FC])
    grouped = OperandConfig(scheme="uniform", bits=4, granularity="group", groups=4)
    assert resolved.options_for("fc", "input") == (OperandConfig(scheme="uniform", bits=4), grouped)


def test_wrong_assignments_are_refused() -> None:
    resolved = resolve(UNIFORM + '[[rules]]\noperand = "input"\nquantize = false\n', [FC])
    for assignment, message in (
        ({}, "nothing is assigned to 'fc:weight.bits'"),
        ({"fc:weight.bits": 5}, "'fc:weight.bits' cannot be 5, only 4, 8"),
        ({"fc:weight.bits": 4, "gone": 4}, "has no decision 'gone'"),
    ):
        with pytest.raises(SpaceError, match=message):
            resolved.sites_for(assignment)


def test_cheapest_avoids_schemes_that_come_with_groups() -> None:
    text = GROUPS.replace('"instance_groups"', '["instance_groups", "adalog"]').replace("[1, ", "[")
    assert resolve(text, [FC]).cheapest() == {"fc": {"input": OperandConfig(scheme="adalog", bits=4)}}


@pytest.mark.parametrize("name", shipped_spaces())
@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_recipes_find_their_way_back_to_assignments(name: str, seed: int) -> None:
    resolved = resolve_space(load_space(name), vit())
    recipe = resolved.sites_for(random_assignment(resolved, seed))
    assert resolved.sites_for(resolved.assignment_for(recipe)) == recipe


def test_assignment_for_prefers_what_tied_operands_need() -> None:
    text = (
        GROUPS.replace("1, 4, 8, 16", "8, 1, 4")
        + '[[rules]]\nsite = "a"\noperand = "input"\nscheme = ["adalog", "instance_groups"]\n'
    )
    text += '[[ties]]\nmatch = "*:input"\nfields = "groups"\nby = "all"\n'
    resolved = resolve(text, [linear("a", 5, 8, 8), linear("b", 5, 8, 8)])
    recipe = resolved.sites_for({"a:input.scheme": "adalog", "*:input.groups": 4})
    assert resolved.assignment_for(recipe)["*:input.groups"] == 4


def test_assignment_for_gives_choices_that_decisions_offer() -> None:
    resolved = resolve(GROUPS, [linear("narrow", 5, 8, 8)])  # 16 groups are 8, so that 16 is not offered
    recipe = {"narrow": {"input": OperandConfig(scheme="instance_groups", bits=4, groups=16)}}
    assert resolved.assignment_for(recipe) == {"narrow:input.groups": 8}
    tie = '[[ties]]\nmatch = "*"\nfields = "groups"\nby = "all"\n'
    resolved = resolve(GROUPS + tie, [linear("narrow", 5, 8, 8), linear("wide", 5, 24, 8)])
    assignment = {"*.groups": 16}
    assert resolved.assignment_for(resolved.sites_for(assignment)) == assignment


def test_assignment_for_refuses_foreign_recipes() -> None:
    resolved = resolve(UNIFORM + '[[rules]]\noperand = "input"\nquantize = false\n', [FC])
    weight = OperandConfig(scheme="uniform", bits=4)
    with pytest.raises(SpaceError, match="fc:input stays in floating point"):
        resolved.assignment_for({"fc": {"weight": weight, "input": weight}})
    with pytest.raises(SpaceError, match=r"does not offer \{'scheme': 'uniform', 'bits': 5\} to fc:weight"):
        resolved.assignment_for({"fc": {"weight": OperandConfig(scheme="uniform", bits=5)}})
    with pytest.raises(SpaceError, match="does not offer floating point to fc:weight"):
        resolved.assignment_for({})


HADAMARD = """
[[rules]]
operand = "weight"
scheme = "uniform"
granularity = "channel"
bits = [2, 4]
[[rules]]
operand = "input"
scheme = ["uniform", "hadamard"]
hadamard_block = [4, 16]
bits = [3, 4]
"""


def test_weights_have_the_basis_of_their_inputs() -> None:
    resolved = resolve(HADAMARD, [FC])
    plain = OperandConfig(scheme="uniform", bits=2, granularity="channel")
    assignment = {"fc:weight.bits": 2, "fc:input.bits": 3, "fc:input.scheme": "uniform", "fc:input.hadamard_block": 16}
    assert resolved.sites_for(assignment)["fc"] == {"input": OperandConfig(scheme="uniform", bits=3), "weight": plain}
    transformed = resolved.sites_for(assignment | {"fc:input.scheme": "hadamard"})["fc"]
    assert transformed == {
        "input": OperandConfig(scheme="hadamard", bits=3, hadamard_block=8),  # of 8 channels
        "weight": OperandConfig(scheme="hadamard", bits=2, granularity="channel", hadamard_block=8),
    }
    offered = resolved.options_for("fc", "weight")
    assert [(each.scheme, each.bits, each.hadamard_block) for each in offered] == [
        *(("uniform", 2, 1), ("uniform", 4, 1)),
        *(("hadamard", 2, 4), ("hadamard", 4, 4), ("hadamard", 2, 8), ("hadamard", 4, 8)),
    ]
    assert resolved.cheapest() == resolved.sites_for(assignment)


def test_recipes_in_other_bases_become_assignments() -> None:
    resolved = resolve(HADAMARD, vit())
    schemes = set()
    for seed in range(20):
        recipe = resolved.sites_for(random_assignment(resolved, seed))
        assert resolved.sites_for(resolved.assignment_for(recipe)) == recipe
        schemes |= {(name, config.scheme) for site in recipe.values() for name, config in site.items()}
    assert schemes == {(name, scheme) for name in ("input", "weight") for scheme in ("uniform", "hadamard")}


def test_recipes_in_two_bases_become_none() -> None:
    resolved = resolve(HADAMARD, [FC])
    given = OperandConfig(scheme="hadamard", bits=3, hadamard_block=8)
    weight = OperandConfig(scheme="uniform", bits=2, granularity="channel")
    with pytest.raises(SpaceError, match=r"does not offer .* to fc:weight"):
        resolved.assignment_for({"fc": {"input": given, "weight": weight}})
    with pytest.raises(SpaceError, match=r"does not offer .* to fc:weight"):
        resolved.assignment_for(
            {"fc": {"input": OperandConfig(scheme="uniform", bits=3), "weight": given.model_copy(update={"bits": 2})}}
        )


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ('operand = "weight"\nscheme = "log2"', "fc: a weight of scheme log2 has no codes beside an input"),
        ('operand = "weight"\nscheme = "hadamard"\nhadamard_block = 8', "fc: weight cannot be offered scheme hadamard"),
    ],
)
def test_spaces_whose_codes_cannot_be_multiplied_are_refused(rule: str, message: str) -> None:
    with pytest.raises(SpaceError, match=message):
        resolve(f"{HADAMARD}[[rules]]\n{rule}\n", [FC])
