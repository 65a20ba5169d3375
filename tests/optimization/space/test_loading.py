"""Search-space files: where they are found, and the messages for those that are wrong."""

from __future__ import annotations

import subprocess
import sys
from importlib import resources
from pathlib import Path

import pytest

from autoq.errors import SpaceError
from autoq.optimization.space import load_space, parse_space, shipped_spaces

RULE = '[[rules]]\nscheme = "uniform"\nbits = [4, 8]\n'


def space(text: str) -> str:
    return f"schema_version = 1\n{text}"


def complaint(text: str) -> str:
    with pytest.raises(SpaceError) as caught:
        parse_space(text, "mine.toml")
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith("search space 'mine.toml'")
    return message


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('[[rules]]\nbitz = 4\nscheme = "uniform"\n', "rule 1 (line 2): unknown key 'bitz'. Did you mean 'bits'?"),
        (RULE + '[[rules]]\nsites = "head"\nbits = 8\n', "rule 2 (line 5): unknown key 'sites'. Did you mean 'site'?"),
        ("[[rule]]\nbits = 4\n", "unknown key 'rule'. Did you mean 'rules'?"),
        ("[[rules]]\nbits = [4, 17]\n", "rule 1 (line 2): bits: expected a whole number from 1 to 16, got 17"),
        ('[[rules]]\nbits = "4"\n', "bits: expected a whole number from 1 to 16, got '4'"),
        ("[[rules]]\nbits = true\n", "bits: expected a whole number from 1 to 16, got True"),
        ("[[rules]]\nbits = 4.0\n", "bits: expected a whole number from 1 to 16, got 4.0"),
        ("[[rules]]\nbits = []\n", "bits: an empty list leaves nothing to choose from"),
        ("[[rules]]\nbits = [4, 4]\n", "bits: 4 is listed twice"),
        ("[[rules]]\ngroups = 0\n", "groups: expected a whole number of at least 1, got 0"),
        ('[[rules]]\nscheme = "unifrom"\n', "Did you mean 'uniform'?"),
        ('[[rules]]\nop = "convv2d"\nbits = 4\n', "Did you mean 'conv2d'?"),
        ("[[rules]]\noperand = 3\nbits = 4\n", "operand: 3 is not one of input, weight, lhs, rhs."),
        ('[[rules]]\nproducer = "gleu"\nbits = 4\n', "Did you mean 'gelu'?"),
        ('[[rules]]\ngranularity = ["tensor", "heads"]\n', "Did you mean 'head'?"),
        ('[[rules]]\nsymmetric = "yes"\n', "symmetric: expected true or false, got 'yes'"),
        ("[[rules]]\nquantize = 0\n", "quantize: expected true or false, got 0"),
        ("[[rules]]\nlog_base_numerator = [37, 9]\n", '"fit" leaves the base to calibration'),
        ("[[rules]]\nsite = [1]\nbits = 4\n", "site: expected a glob over names"),
        ('[[rules]]\nsite = "head"\n', "rule 1 (line 2): sets nothing; give it quantize or one of scheme, bits"),
        ('[[rules]]\nposition = "middle"\nbits = 4\n', "position: give 'first' or 'last' (got 'middle')"),
        (
            RULE + '[[ties]]\nmatch = "*"\nfields = ["bit"]\nby = "site"\n',
            "tie 1 (line 5): fields: 'bit' is not one of",
        ),
        (RULE + '[[ties]]\nmatch = "*"\nfields = ["bits"]\nby = "block"\n', "by: 'block' is not one of site"),
        (RULE + '[[ties]]\nmatch = "*"\nfields = ["bits"]\n', "tie 1 (line 5): by is missing"),
        ("rules = []\n", "rules: "),
        ("", "rules is missing"),
        ("rules = [{bits = 99}]\n", "rule 1: bits: "),
        ("rules = 3\n", "rules: "),
        ('name = "x"\n' + RULE, "unknown key 'name'"),
    ],
)
def test_mistakes_are_named_with_their_place(text: str, expected: str) -> None:
    assert expected in complaint(space(text))


def test_schema_version_is_checked() -> None:
    assert "schema_version is missing" in complaint(RULE)
    assert "schema_version: " in complaint("schema_version = 2\n" + RULE)


def test_invalid_toml_names_the_line() -> None:
    assert "line 3" in complaint('schema_version = 1\n[[rules]]\nbits = = 4\nscheme = "uniform"\n')


def test_unknown_name_lists_the_shipped_spaces() -> None:
    with pytest.raises(SpaceError, match=r"bits_only.*groups_only.*Did you mean 'vit_w2-8'\?"):
        load_space("vit_w28")


def test_missing_and_unreadable_files(tmp_path: Path) -> None:
    with pytest.raises(SpaceError, match=r"cannot read search space .*none\.toml': No such file"):
        load_space(tmp_path / "none.toml")
    with pytest.raises(SpaceError, match=r"cannot read search space 'vit_w2-8\.toml'"):
        load_space("vit_w2-8.toml")
    (tmp_path / "bytes.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(SpaceError, match="not UTF-8"):
        load_space(tmp_path / "bytes.toml")


def test_a_path_is_read_as_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(space(RULE), encoding="utf-8")
    assert load_space(path).name == str(path)
    assert load_space(str(path)).rules == load_space(path).rules
    monkeypatch.chdir(tmp_path)
    assert load_space("mine.toml").name == "mine.toml"


def test_shipped_spaces_load_by_name() -> None:
    for_files = {"deployable_4-8", "fpga_2-8", "integer_8", "onnxruntime_8", "weights_2-8"}
    assert {"bits_only", "groups_only", "vit_w2-8"} | for_files <= set(shipped_spaces())
    for name in shipped_spaces():
        loaded = load_space(name)
        assert loaded.name == name
        assert loaded.description


def test_import_is_light() -> None:
    code = "import sys, autoq.optimization.space; print({'torch', 'optuna'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_a_broken_installation_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resources, "files", lambda _: tmp_path / "autoq")
    with pytest.raises(SpaceError, match=r"autoq/search_spaces', .* is missing: install autoq again"):
        load_space("vit_w2-8")
    (tmp_path / "autoq" / "search_spaces").mkdir(parents=True)
    assert shipped_spaces() == []
