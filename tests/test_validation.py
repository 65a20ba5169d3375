"""Wrong values are named on one line, with what would be right."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from autoq.errors import DataError, SpaceError
from autoq.validation import did_you_mean, first_complaint, parse_json, parse_toml, read_text, validate


class Wheel(BaseModel):
    model_config = ConfigDict(extra="forbid")

    spokes: int = Field(ge=3)
    tyre: Literal["road", "gravel"] = "road"


class Bicycle(BaseModel):
    model_config = ConfigDict(extra="forbid")

    wheels: dict[str, tuple[Wheel, ...]]
    spare: Wheel | None = None
    colour: str = "red"

    @field_validator("colour")
    @classmethod
    def _check(cls, colour: str) -> str:
        if colour == "beige":
            raise ValueError(f"{colour!r} is no colour")
        return colour


@dataclass(frozen=True)
class Gear:
    teeth: int = 11

    __pydantic_config__ = ConfigDict(extra="forbid")


@dataclass(frozen=True)
class Drive:
    gear: Gear = field(default_factory=Gear)
    chain: Literal["steel", "belt"] = "steel"

    __pydantic_config__ = ConfigDict(extra="forbid")


@pytest.mark.parametrize(
    ("kind", "values", "expected"),
    [
        (Bicycle, {}, "wheels is missing"),
        (Bicycle, {"wheels": {}, "color": 3}, "unknown key 'color'. Did you mean 'colour'?"),
        (Bicycle, {"wheel": {}}, "unknown key 'wheel'. Did you mean 'wheels'?"),
        (Bicycle, {"wheels": {}, "zzz": 3}, "unknown key 'zzz'."),
        (Bicycle, {"wheels": {"front": [{}]}}, "wheels.front.0: spokes is missing"),
        (
            Bicycle,
            {"wheels": {"front": [{"spoke": 3}]}},
            "unknown key 'wheels.front.0.spoke'. Did you mean 'spokes'?",
        ),
        (
            Bicycle,
            {"wheels": {"front": [{"spokes": 2}]}},
            "wheels.front.0.spokes: give 3 or more (got 2)",
        ),
        (
            Bicycle,
            {"wheels": {}, "spare": {"spokes": 3, "tyre": "gravle"}},
            "spare.tyre: give 'road' or 'gravel' (got 'gravle'). Did you mean 'gravel'?",
        ),
        (Bicycle, {"wheels": {}, "spare": {"tire": 3}}, "unknown key 'spare.tire'. Did you mean 'tyre'?"),
        (Bicycle, {"wheels": {}, "colour": "beige"}, "colour: 'beige' is no colour"),
        (Bicycle, [], "give a valid dictionary or instance of Bicycle (got [])"),
        (Bicycle, ["x" * 100], "give a valid dictionary or instance of Bicycle"),
        (Drive, {"gear": {"tooth": 3}}, "unknown key 'gear.tooth'. Did you mean 'teeth'?"),
        (Drive, {"chian": 3}, "unknown key 'chian'. Did you mean 'chain'?"),
        (Drive, {"chain": "bolt"}, "chain: give 'steel' or 'belt' (got 'bolt'). Did you mean 'belt'?"),
        (Drive, {"chain": 3}, "chain: give 'steel' or 'belt' (got 3)"),
    ],
)
def test_complaints(kind: type[Any], values: object, expected: str) -> None:
    with pytest.raises(SpaceError) as caught:
        validate(kind, values, "file 'a'", SpaceError)
    assert str(caught.value) == f"file 'a': {expected}"


def test_what_is_right_comes_back() -> None:
    assert validate(Bicycle, {"wheels": {"rear": [{"spokes": 3}]}}, "", SpaceError).wheels["rear"] == (Wheel(spokes=3),)
    assert validate(Drive, {"gear": {"teeth": 12}}, "", SpaceError) == Drive(Gear(12))


def test_a_complaint_from_further_in() -> None:
    with pytest.raises(ValidationError) as caught:
        Bicycle.model_validate({"wheels": {"front": [{"spokes": 2}]}})
    complaint = first_complaint(caught.value, Bicycle)
    assert complaint.location == ("wheels", "front", 0, "spokes")
    assert str(complaint.below(3)).startswith("spokes: give 3 or more")


def test_did_you_mean() -> None:
    assert did_you_mean("bitz", ["bits", "groups"]) == " Did you mean 'bits'?"
    assert did_you_mean("zzz", ["bits", "groups"]) == ""
    assert did_you_mean("bits", []) == ""


def test_files(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    with pytest.raises(DataError, match=r"^cannot read list '.*a\.txt': No such file or directory$"):
        read_text(path, "list", SpaceError, DataError)
    path.write_bytes(b"\xef\xbb\xbfa = 1\r\n")
    assert read_text(path, "list", SpaceError) == "a = 1\n", "a byte order mark is no text"
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(DataError, match=r"^cannot read list '.*a\.txt': it is not UTF-8: save it as UTF-8$"):
        read_text(path, "list", DataError)
    path.write_text("naïve", encoding="utf-8")
    assert read_text(path, "list", DataError) == "naïve"


def test_notations() -> None:
    assert parse_json('{"a": [1]}', "x", DataError) == {"a": [1]}
    assert parse_toml("a = [1]", "x", DataError) == {"a": [1]}
    with pytest.raises(DataError, match=r"^list 'a' is not JSON: Expecting value: line 1 column 7"):
        parse_json('{"a": }', "list 'a'", DataError)
    with pytest.raises(DataError, match=r"^list 'a' is not TOML: .*line 2"):
        parse_toml("b = 1\na = = 2\n", "list 'a'", DataError)


def test_import_is_light() -> None:
    code = "import sys, autoq.validation; print({'torch', 'pydantic'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
