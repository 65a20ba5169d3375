"""Uniform points: one width for weights and one for activations, all else as good as the space has it."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from autoq.graph.sites import Site
from autoq.optimization.space import ResolvedSpace, load_space, parse_space, resolve_space
from autoq.optimization.space.uniform_points import has_schemes, offered, uniform_assignment, uniform_points
from autoq.recipe import OperandConfig
from tests.optimization.synthetic_sites import linear, vit

UNIFORM = '[[rules]]\nscheme = "uniform"\nbits = [4, 8]\n'
TWO = [linear("first", 5, 8, 8), linear("second", 5, 8, 8)]


def resolve(text: str, sites: Sequence[Site]) -> ResolvedSpace:
    return resolve_space(parse_space("schema_version = 1\n" + text), sites)


@pytest.fixture(scope="module")
def default() -> ResolvedSpace:
    return resolve_space(load_space("vit_w2-8"), vit())


def test_default_space(default: ResolvedSpace) -> None:
    points = dict(uniform_points(default))
    assert list(points) == [f"w{b}a{b}{g}" for g in ("", " g4", " g8") for b in range(2, 9)]
    plain, grouped = (default.sites_for(points[label]) for label in ("w4a4", "w4a4 g8"))
    assert plain["patch_embed.proj"]["input"] == OperandConfig(scheme="uniform", bits=8)
    assert plain["patch_embed.proj"]["weight"].bits == 4
    assert plain["blocks.0.attn.qkv"]["input"] == OperandConfig(scheme="uniform", bits=4)
    assert plain["blocks.0.attn.av"]["lhs"] == OperandConfig(scheme="adalog", bits=4)
    assert grouped["blocks.1.mlp.fc2"]["input"] == OperandConfig(scheme="instance_groups", bits=4, groups=8)
    assert grouped["head"]["input"] == OperandConfig(scheme="uniform", bits=4)


def test_schemes_are_those_that_lose_least_alone(default: ResolvedSpace) -> None:
    """A plain grid from 6 bits on, base 2 below: at each operand and width on its own."""

    def loss(site: str, operand: str, config: OperandConfig) -> float:
        del operand
        if config.scheme == "adalog":
            return float(config.bits >= 6 or site.startswith("blocks.0")) + 0.1 * (config.log_base_numerator != 37)
        return 0.5

    points = dict(uniform_points(default, loss))
    for bits in (4, 7):
        sites = default.sites_for(points[f"w{bits}a{bits}"])
        for block, site in ((0, "blocks.0.attn.av"), (1, "blocks.1.attn.av")):
            expected = OperandConfig(scheme="adalog", bits=bits, log_base_numerator=37)
            if bits == 7 or block == 0:
                expected = OperandConfig(scheme="uniform", bits=bits)
            assert sites[site]["lhs"] == expected, (bits, site)


def test_fitted_bases_stay_where_others_are_no_better(default: ResolvedSpace) -> None:
    sites = default.sites_for(uniform_assignment(default, 4, 4, loss=lambda *_: 1.0))
    assert sites["blocks.0.attn.av"]["lhs"] == OperandConfig(scheme="adalog", bits=4)


def test_tied_operands_take_the_scheme_of_least_sum() -> None:
    text = UNIFORM + '[[rules]]\noperand = "input"\nscheme = ["uniform", "adalog"]\n'
    text += '[[ties]]\nmatch = "*:input"\nfields = "scheme"\nby = "all"\n'
    resolved = resolve(text, TWO)
    for worst, scheme in ((3.0, "uniform"), (1.0, "adalog")):

        def loss(site: str, operand: str, config: OperandConfig, worst: float = worst) -> float:
            del operand
            return {"uniform": 1.0, "adalog": worst if site == "first" else 0.5}[config.scheme]

        assert uniform_assignment(resolved, 4, 4, loss=loss)["*:input.scheme"] == scheme


def test_schemes_of_another_width_are_no_uniform_point() -> None:
    """At 4 bits those of 4, even where one of 8 loses less."""
    text = '[[rules]]\nscheme = ["uniform", "fp8_e4m3", "nvfp4"]\nbits = [4, 6, 8]\n'
    text += '[[ties]]\nmatch = "*"\nfields = ["scheme"]\nby = "site"\n'

    def loss(site: str, operand: str, config: OperandConfig) -> float:
        del site, operand
        return {"uniform": 3.0, "nvfp4": 2.0, "fp8_e4m3": 1.0}[config.scheme]

    resolved = resolve(text, [linear("first", 5, 32, 8), linear("second", 5, 32, 8)])
    points = uniform_points(resolved, loss)
    found = [(label, {config.scheme for config in resolved.sites_for(way)["second"].values()}) for label, way in points]
    assert found == [("w4a4", {"nvfp4"}), ("w6a6", {"uniform"}), ("w8a8", {"fp8_e4m3"})]


def test_image_that_is_tied_to_others_stays_uniform() -> None:
    resolved = resolve(UNIFORM + '[[ties]]\nmatch = "*"\nfields = "bits"\nby = "site"\n', TWO)
    assert resolved.image == ("first", "input")
    configs = resolved.sites_for(uniform_assignment(resolved, 4, 4))
    assert {config.bits for operands in configs.values() for config in operands.values()} == {4}


def test_image_in_floating_point() -> None:
    text = UNIFORM + '[[rules]]\nposition = "first"\noperand = "input"\nquantize = false\n'
    resolved = resolve(text, TWO)
    assert resolved.image is None
    assert [label for label, _ in uniform_points(resolved)] == ["w4a4", "w8a8"]
    assert resolved.sites_for(uniform_assignment(resolved, 4, 4))["second"]["input"].bits == 4


def test_more_widths_are_those_that_are_asked_for(default: ResolvedSpace) -> None:
    points = uniform_points(default, widths=[(4, 8), (4, 4)])
    assert [label for label, _ in points][:8] == [*(f"w{b}a{b}" for b in range(2, 9)), "w4a8"]
    sites = default.sites_for(dict(points)["w4a8"])
    assert {name: config.bits for name, config in sites["head"].items()} == {"input": 8, "weight": 4}


def test_where_bits_are_fixed() -> None:
    points = uniform_points(resolve_space(load_space("groups_only"), vit()))
    assert [label for label, _ in points] == ["w4a4", *(f"w4a4 g{groups}" for groups in (2, 4, 6, 8, 12, 16))]


def test_nearest_choice_is_taken_and_said() -> None:
    resolved = resolve(UNIFORM + '[[rules]]\noperand = "input"\nbits = [2, 8]\n', TWO)
    assert [label for label, _ in uniform_points(resolved)] == ["w4a2", "w8a8"]


def test_what_a_space_leaves_open(default: ResolvedSpace) -> None:
    assert offered(default, "groups") == [1, 4, 8]
    assert has_schemes(default)
    assert not has_schemes(resolve_space(load_space("bits_only"), vit()))
