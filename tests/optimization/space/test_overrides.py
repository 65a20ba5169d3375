"""Overrides by name: what they leave of a space's decisions, and which patterns are refused."""

from __future__ import annotations

import pytest

from autoq.errors import SpaceError
from autoq.optimization.space import ResolvedSpace, parse_space, resolve_space
from autoq.optimization.space.overrides import Override, Overrides
from tests.optimization.synthetic_sites import linear, norm, product

SPACE = """
schema_version = 1
[[rules]]
scheme = "uniform"
bits = [4, 6]
[[ties]]
match = "*"
fields = ["bits"]
by = "site"
"""
SITES = (
    norm("norm", 5, 8),
    linear("a.fc", 5, 8, 8),
    product("a.qk", (1, 2, 5, 4), (1, 2, 4, 5)),
    linear("head", 1, 8, 10),
)


def resolve(*, fix: tuple[str, ...] = (), exclude: tuple[str, ...] = ()) -> ResolvedSpace:
    return resolve_space(parse_space(SPACE), SITES, Overrides.parse(fix, exclude))


def test_fixed_operands_have_one_width_that_need_not_be_offered_and_no_tie_binds_them() -> None:
    space = resolve(fix=("head=8", "a.fc:weight=6"))
    assert {option.bits for name in ("input", "weight") for option in space.options_for("head", name)} == {8}
    assert {option.bits for option in space.options_for("a.fc", "weight")} == {6}
    assert {decision.name: decision.choices for decision in space.decisions} == {
        "a.fc:input.bits": (4, 6),
        "a.qk:*.bits": (4, 6),
    }


def test_the_last_width_counts_and_exclusion_wins() -> None:
    space = resolve(fix=("*=8", "head:weight=5"), exclude=("a.*:lhs", "a.fc"))
    chosen = space.sites_for({})
    assert chosen["head"]["weight"].bits == 5
    assert chosen["head"]["input"].bits == 8
    assert list(chosen["a.qk"]) == ["rhs"]
    assert "a.fc" not in chosen


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"fix": ("haed=8",)}, "fix 'haed=8' matches no operand .* Did you mean 'head'?"),
        ({"fix": ("head:wieght=8",)}, "Did you mean 'head:weight'?"),
        ({"fix": ("norm=8",)}, "leaves these operands in floating point"),
        ({"exclude": ("b.*",)}, "exclude 'b.\\*' matches no operand"),
        ({"exclude": ("*",)}, "everything is excluded"),
    ],
)
def test_patterns_about_nothing_are_refused(overrides: dict[str, tuple[str, ...]], message: str) -> None:
    with pytest.raises(SpaceError, match=message):
        resolve(**overrides)


@pytest.mark.parametrize("text", ["head", "head=", "=8", "head=0", "head=17", "head=4.5", "head=fp8"])
def test_widths_that_are_none(text: str) -> None:
    with pytest.raises(ValueError, match="write SITE"):
        Override.fixing(text)


@pytest.mark.parametrize("text", ["", " ", "head=8"])
def test_exclusions_that_are_none(text: str) -> None:
    with pytest.raises(ValueError, match="write SITE"):
        Override.excluding(text)
