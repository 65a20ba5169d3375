"""Hardware descriptions: what they say of operands, and the messages for those that are wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from autoq.errors import TargetError
from autoq.optimization.space import Target, load_target, shipped_targets
from autoq.optimization.space.loading import TARGETS
from autoq.quantizers import quantizer_class
from autoq.recipe import OperandConfig
from tests.optimization.synthetic_sites import linear, norm, product

FC, NORM = linear("fc", 5, 8, 8), norm("norm", 5, 8)
AV = product("av", (1, 2, 5, 5), (1, 2, 5, 4), "softmax")
TEXT = """
schema_version = 1
[[operations]]
scheme = "uniform"
bits = [4, 8]
[[operations]]
operand = "weight"
granularity = ["tensor", "channel"]
symmetric = true
[[operations]]
producer = "softmax"
quantize = false
"""


def target(text: str = TEXT) -> Target:
    return TARGETS.parse(text, "mine.toml")


def test_later_operations_override_field_by_field() -> None:
    allowed = target().allowed(FC, FC.operand("weight"))
    expected = {"scheme": ("uniform",), "bits": (4, 8), "granularity": ("tensor", "channel"), "symmetric": (True,)}
    assert allowed == expected


def test_what_no_operation_matches_stays_in_floating_point() -> None:
    assert target().allowed(NORM, NORM.operands[0]) is None, "norms are reached by name alone"
    assert target().allowed(AV, AV.operand("lhs")) is None, "quantize = false"
    assert target().allowed(AV, AV.operand("rhs")) is not None


def test_choices_are_narrowed_and_replaced_where_none_are_left() -> None:
    choices = {"scheme": ("adalog", "uniform"), "bits": (2, 4, 6), "granularity": ("head",), "symmetric": (False,)}
    left = target().narrowed(choices, FC, FC.operand("weight"))
    assert left is not None
    assert left["scheme"] == ("uniform",)
    assert left["bits"] == (4,)
    assert left["granularity"] == ("tensor", "channel")
    assert left["symmetric"] == (True,)


@pytest.mark.parametrize(
    ("config", "operand", "expected"),
    [
        (OperandConfig(scheme="uniform", bits=4, granularity="channel", symmetric=True), "weight", None),
        (OperandConfig(scheme="uniform", bits=5, symmetric=True), "weight", "has bits 4, 8, not 5"),
        (OperandConfig(scheme="uniform", bits=8), "weight", "has symmetric True, not False"),
        (OperandConfig(scheme="adalog", bits=4), "input", "has scheme uniform, not adalog"),
    ],
)
def test_objections_name_what_there_is(config: OperandConfig, operand: str, expected: str | None) -> None:
    found = target().objection(config, quantizer_class(config.scheme).config_fields, FC, FC.operand(operand))
    assert found == (None if expected is None else f"the target {expected}")


def test_any_has_everything() -> None:
    config = OperandConfig(scheme="instance_groups", bits=3, groups=8)
    found = load_target("any")
    assert found.objection(config, ("groups",), FC, FC.operand("input")) is None
    assert found.allowed(NORM, NORM.operands[0]) == {}


@pytest.mark.parametrize("name", shipped_targets())
def test_shipped_targets_are_described(name: str) -> None:
    assert load_target(name).description


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[[operations]]\nbitz = 4\n", "operation 1 (line 2): unknown key 'bitz'. Did you mean 'bits'?"),
        ('[[operations]]\nsite = "head"\nbits = 4\n', "operation 1 (line 2): unknown key 'site'."),
        ("[[operation]]\nbits = 4\n", "unknown key 'operation'. Did you mean 'operations'?"),
        ('name = "x"\n[[operations]]\nbits = 4\n', "unknown key 'name'; it is called after its file"),
    ],
)
def test_mistakes_are_told_on_one_line(text: str, expected: str) -> None:
    with pytest.raises(TargetError) as caught:
        target(f"schema_version = 1\n{text}")
    message = str(caught.value)
    assert message.startswith("target 'mine.toml'")
    assert expected in message
    assert "\n" not in message


def test_an_unknown_name_is_told_with_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(TargetError, match=r"unknown target 'fpgas'; give a .toml file or one of any, fpga.*'fpga'"):
        load_target("fpgas")
    (tmp_path / "mine.toml").write_text(TEXT)
    assert load_target(tmp_path / "mine.toml").operations == target().operations
