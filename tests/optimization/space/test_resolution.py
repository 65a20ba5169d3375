"""Rules and ties matched against sites: which decisions are open, and what they set."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Sequence

import pytest

from autoq.errors import SpaceError
from autoq.graph.sites import Site
from autoq.optimization.space import ResolvedSpace, load_space, parse_space, resolve_space, shipped_spaces
from autoq.optimization.space.overrides import Overrides
from autoq.optimization.space.uniform_points import uniform_points
from autoq.recipe import OperandConfig, hash_sites
from tests.optimization.synthetic_sites import MODELS, conv, linear, norm, product, vit
from tests.runs.small_run import small_session


def resolve(text: str, sites: Sequence[Site], overrides: Overrides | None = None) -> ResolvedSpace:
    return resolve_space(parse_space("schema_version = 1\n" + text), sites, overrides)


FC = linear("fc", 5, 8, 8)


UNIFORM = '[[rules]]\nscheme = "uniform"\nbits = [4, 8]\n'


def test_lists_are_decisions_and_scalars_are_fixed() -> None:
    resolved = resolve('[[rules]]\noperand = "weight"\nscheme = "uniform"\nbits = [4, 8]\nsymmetric = true\n', [FC])
    (decision,) = resolved.decisions
    assert (decision.name, decision.field, decision.choices) == ("fc:weight.bits", "bits", (4, 8))
    assert decision.targets == (("fc", "weight"),)
    expected = {"fc": {"weight": OperandConfig(scheme="uniform", bits=8, symmetric=True)}}
    assert resolved.sites_for({"fc:weight.bits": 8}) == expected


def test_later_rules_override_field_by_field() -> None:
    text = UNIFORM + 'granularity = "channel"\n[[rules]]\nsite = "fc"\nbits = 6\n'
    resolved = resolve(text, [FC, linear("other", 5, 8, 8)])
    assert resolved.options_for("fc", "weight") == (OperandConfig(scheme="uniform", bits=6, granularity="channel"),)
    assert {decision.targets[0][0] for decision in resolved.decisions} == {"other"}


def test_quantize_false_leaves_operands_in_floating_point() -> None:
    resolved = resolve(UNIFORM + '[[rules]]\noperand = "input"\nquantize = false\n', [FC])
    assert resolved.options_for("fc", "input") == ()
    assert list(resolved.cheapest()["fc"]) == ["weight"]


def test_norms_are_reached_only_by_name() -> None:
    sites = [norm("norm", 5, 8), FC]
    assert "norm" not in resolve(UNIFORM, sites).cheapest()
    assert "norm" in resolve(UNIFORM + '[[rules]]\nop = "layer_norm"\nscheme = "uniform"\nbits = 8\n', sites).cheapest()


def test_position_is_the_order_of_the_forward_pass() -> None:
    sites = [conv("stem", 3, 8, 2, 2), FC, linear("classifier", 1, 8, 10), product("p", (1, 2, 5, 4), (1, 2, 4, 5))]
    text = UNIFORM + '[[rules]]\nposition = "first"\nbits = 8\n[[rules]]\nposition = "last"\nbits = 6\n'
    configs = resolve(text, sites).cheapest()
    assert [configs[site][operand].bits for site, operand in (("stem", "input"), ("fc", "input"))] == [8, 4]
    assert configs["classifier"]["weight"].bits == 6


def test_missing_scheme_or_bits_is_an_error() -> None:
    with pytest.raises(SpaceError, match="gives fc:input no scheme"):
        resolve("[[rules]]\nbits = 4\n", [FC])
    with pytest.raises(SpaceError, match="gives fc:input no bits"):
        resolve('[[rules]]\nscheme = "uniform"\n', [FC])


def test_quantizing_nothing_is_an_error() -> None:
    with pytest.raises(SpaceError, match="quantizes nothing"):
        resolve('[[rules]]\nop = "conv2d"\nscheme = "uniform"\nbits = 4\n', [FC])


def test_names_that_match_nothing_are_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    text = (
        UNIFORM + '[[rules]]\nsite = "block.0.fc"\nbits = 8\n[[ties]]\nmatch = "*.qk:*"\nfields = "bits"\nby = "site"\n'
    )
    resolve(text + '[[rules]]\nop = "einsum"\nbits = 8\n', [linear("blocks.0.fc", 5, 8, 8)])
    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert len(warnings) == 2
    assert "rule 2 (site = 'block.0.fc') matches nothing in this model. Did you mean 'blocks.0.fc'?" in warnings[0]
    assert "tie 1" in warnings[1]


@pytest.mark.parametrize(
    ("by", "names"),
    [
        ("site", {"a.qk:*.bits", "b.qk:*.bits"}),
        ("operand", {"*.qk:lhs.bits", "*.qk:rhs.bits"}),
        ("all", {"*.qk:*.bits"}),
    ],
)
def test_ties(by: str, names: set[str]) -> None:
    sites = [product(f"{name}.qk", (1, 2, 5, 4), (1, 2, 4, 5)) for name in "ab"]
    resolved = resolve(UNIFORM + f'[[ties]]\nmatch = "*.qk:*"\nfields = ["bits"]\nby = "{by}"\n', sites)
    assert {decision.name for decision in resolved.decisions} == names
    assert sum(len(decision.targets) for decision in resolved.decisions) == 4
    name = sorted(names)[0]
    configs = resolved.sites_for(resolved.uniform_assignment(4) | {name: 8})
    chosen = {target for decision in resolved.decisions if decision.name == name for target in decision.targets}
    assert chosen == {(site, op) for site, ops in configs.items() for op, config in ops.items() if config.bits == 8}


def test_the_last_tie_counts() -> None:
    ties = (
        '[[ties]]\nmatch = "*"\nfields = "bits"\nby = "all"\n[[ties]]\nmatch = "fc:*"\nfields = "bits"\nby = "site"\n'
    )
    resolved = resolve(UNIFORM + ties, [FC, linear("other", 5, 8, 8)])
    assert [decision.name for decision in resolved.decisions] == ["fc:*.bits", "*.bits"]


def test_ties_over_different_choices_are_an_error() -> None:
    text = (
        UNIFORM + '[[rules]]\noperand = "input"\nbits = [2, 4]\n[[ties]]\nmatch = "*"\nfields = "bits"\nby = "site"\n'
    )
    with pytest.raises(SpaceError, match=r"ties bits of fc:input, \[2, 4\], to that of fc:weight, \[4, 8\]"):
        resolve(text, [FC])


def test_a_tie_of_one_keeps_the_operands_own_name() -> None:
    text = UNIFORM + '[[rules]]\noperand = "input"\nbits = 8\n[[ties]]\nmatch = "*"\nfields = "bits"\nby = "site"\n'
    assert [decision.name for decision in resolve(text, [FC]).decisions] == ["fc:weight.bits"]


GROUPS = '[[rules]]\noperand = "input"\nscheme = "instance_groups"\nbits = 4\ngroups = [1, 4, 8, 16]\n'


def test_choices_without_effect_are_not_decisions() -> None:
    assert resolve(GROUPS, [linear("fc", 5, 24, 8)]).decisions[0].choices == (1, 4, 8, 16)
    assert resolve(GROUPS, [linear("fc", 5, 8, 8)]).decisions[0].choices == (1, 4, 8)  # no more than channels
    head = resolve(GROUPS, [linear("head", 1, 24, 8)])  # nothing to group
    assert head.decisions == ()
    assert head.cheapest() == {"head": {"input": OperandConfig(scheme="uniform", bits=4)}}


FORMATS = """
[[rules]]
scheme = ["uniform", "mxfp4", "nvfp4"]
bits = [4, 6, 8]
"""
TIED = FORMATS + '[[ties]]\nmatch = "*"\nfields = ["scheme"]\nby = "site"\n'


def test_a_format_of_one_width_has_it_whatever_is_listed() -> None:
    resolved = resolve(TIED, [linear("head", 1, 48, 8)])
    shown = [(config.scheme, config.bits) for config in resolved.options_for("head", "weight")]
    assert sorted(shown) == [("mxfp4", 4), ("nvfp4", 4), ("uniform", 4), ("uniform", 6), ("uniform", 8)]
    chosen = {"head:*.scheme": "mxfp4", "head:input.bits": 8, "head:weight.bits": 6}
    mxfp4 = OperandConfig(scheme="mxfp4", bits=4)
    assert resolved.sites_for(chosen) == {"head": {"input": mxfp4, "weight": mxfp4}}
    assert resolved.sites_for(resolved.assignment_for({"head": {"input": mxfp4, "weight": mxfp4}})) == {
        "head": {"input": mxfp4, "weight": mxfp4}
    }


def test_a_fixed_width_leaves_the_schemes_that_have_it() -> None:
    resolved = resolve(TIED, [linear("head", 1, 48, 8)], Overrides.parse(fix=("head:*=8",)))
    assert resolved.cheapest() == {"head": dict.fromkeys(("input", "weight"), OperandConfig(scheme="uniform", bits=8))}
    only = TIED.replace('["uniform", "mxfp4", "nvfp4"]', '["mxfp4", "nvfp4"]')
    with pytest.raises(SpaceError, match="head:input cannot be fixed at 8 bits: mxfp4, nvfp4 has another width"):
        resolve(only, [linear("head", 1, 48, 8)], Overrides.parse(fix=("head:*=8",)))


def test_deployable_has_one_decision_a_site() -> None:
    resolved = resolve_space(load_space("deployable_4-8"), vit())
    assert all(len(decision.targets) == 2 and decision.name.endswith(":*.bits") for decision in resolved.decisions)
    assert len(resolved.decisions) == 14
    assert resolved.size_log10 == pytest.approx(14 * math.log10(2))


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("name", shipped_spaces())
def test_shipped_spaces_resolve(name: str, model: str, caplog: pytest.LogCaptureFixture) -> None:
    sites = MODELS[model]()
    resolved = resolve_space(load_space(name), sites)
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
    names = [decision.name for decision in resolved.decisions]
    assert len(set(names)) == len(names)
    for decision in resolved.decisions:
        assert len(decision.choices) > 1
        assert tuple(json.loads(json.dumps(decision.choices))) == decision.choices
    recipes = [resolved.sites_for(assignment) for _, assignment in uniform_points(resolved)] + [resolved.cheapest()]
    reached = [site for site in sites if site.macs or name == "integer_8"]
    operands = [(site.name, operand) for site in reached for operand in site.operands]
    quantized = [(site, operand) for site, operand in operands if operand.is_weight or name != "weights_2-8"]
    expected = {(site, operand.name) for site, operand in quantized}
    for recipe in recipes:
        assert {(site, operand) for site, operands in recipe.items() for operand in operands} == expected
        assert all(config in resolved.options_for(s, o) for s, ops in recipe.items() for o, config in ops.items())
    assert len({hash_sites(recipe) for recipe in recipes[:-1]}) == len(recipes) - 1


def test_group_sizes_divide_the_channels_of_each_operand() -> None:
    """200 input channels by 128 are two groups of 100; an operand without channels to divide has one group."""
    text = '[[rules]]\nscheme = "uniform"\ngranularity = "group"\nbits = 4\ngroup_size = [32, 128, 256]\n'
    sites = [linear("wide", 5, 200, 8), linear("narrow", 5, 24, 8), conv("stem", 3, 8, 2, 2)]
    resolved = resolve(text, sites)
    by_name = {decision.name: decision for decision in resolved.decisions}
    assert {name: decision.choices for name, decision in by_name.items() if "weight" in name} == {
        "wide:weight.groups": (7, 2, 1),
    }
    chosen = resolved.sites_for(resolved.uniform_assignment(4, groups=2))
    assert chosen["wide"]["weight"] == OperandConfig(scheme="uniform", bits=4, granularity="group", groups=2)
    assert chosen["narrow"]["weight"] == OperandConfig(scheme="uniform", bits=4, granularity="channel")


def test_group_sizes_and_numbers_of_groups_override_each_other() -> None:
    rule = '[[rules]]\nscheme = "uniform"\ngranularity = "group"\nbits = 4\n'
    assert resolve(rule + "groups = 2\n[[rules]]\ngroup_size = 2\n", [FC]).cheapest()["fc"]["weight"].groups == 4
    assert resolve(rule + "group_size = 2\n[[rules]]\ngroups = 2\n", [FC]).cheapest()["fc"]["weight"].groups == 2
    with pytest.raises(SpaceError, match="gives both groups and group_size: leave one out"):
        resolve(rule + "groups = 2\ngroup_size = 2\n", [FC])
    with pytest.raises(SpaceError, match="expected a whole number of at least 1, got 0"):
        resolve(rule + "group_size = 0\n", [FC])


def test_a_space_of_integers_throughout_reaches_what_multiplies_nothing() -> None:
    """At one width, but for outputs; a space that does not name their kind leaves such sites in floating point."""
    model = small_session().traced
    nothing = {(site.name, operand.name) for site, operand in model.operands() if not site.macs} - {("output", "input")}
    found = resolve_space(load_space("integer_8"), model.sites)
    everything = {(site.name, operand.name) for site, operand in model.operands()} - {("output", "input")}
    assert {(plan.site, plan.operand.name) for plan in found.plans} == everything
    for site, operand in nothing:
        (only,) = found.options_for(site, operand)
        assert (only.scheme, only.bits, only.granularity) == ("uniform", 8, "tensor")
    plain = resolve_space(load_space("onnxruntime_8"), model.sites)
    assert {(plan.site, plan.operand.name) for plan in plain.plans} == everything - nothing
    assert [each.name for each in plain.decisions] == [each.name for each in found.decisions]
