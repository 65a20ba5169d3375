"""Options that several commands share, and what commands print."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from autoq.cli.options import default_out, named, print_json, this_command, wrapped
from tests.cli.command import (
    Command,
    refusal,
)


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ("vit_digits", "vit_digits"),
        ("hf-hub:timm/deit_tiny.fb_in1k", "deit_tiny.fb_in1k"),
        ("local-dir:models/mine/", "mine"),
        ("local-dir:models/of mine", "of-mine"),
        ("local-dir:/", "model"),
    ],
)
def test_directories_are_named_after_the_model(model: str, name: str) -> None:
    assert default_out(model, "w4a4") == Path("autoq-runs") / f"{name}-w4a4"


@pytest.mark.parametrize(
    ("arguments", "shown"),
    [
        (["/usr/bin/autoq", "search", "--out", "a run"], "autoq search --out 'a run'"),
        (["/somewhere/autoq/__main__.py", "sites"], "python -m autoq sites"),
    ],
)
def test_the_command_as_it_is_typed(arguments: list[str], shown: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", arguments)
    assert this_command() == shown


def test_json_has_no_infinities(capsys: pytest.CaptureFixture[str]) -> None:
    print_json({"a": [math.inf, (1.5, -math.inf)], "b": {"c": math.nan, "d": None, "e": "x"}, "f": 3})
    assert capsys.readouterr().out == '{"a": [null, [1.5, null]], "b": {"c": null, "d": null, "e": "x"}, "f": 3}\n'


def test_entries_of_a_registry_are_described() -> None:
    entries = {name: SimpleNamespace(description=text) for name, text in (("a", "first"), ("b", "second"))}
    assert named(entries) == "a (first); b (second)"


def test_devices(plain_command: Command, run: Path) -> None:
    assert "cannot use device 'tpu9'" in refusal(plain_command, "search", "--device", "tpu9")
    good = run / "recipes" / "w4a4.json"
    assert "cannot use device 'tpu9'" in refusal(plain_command, "reconstruct", good, "--device", "tpu9", "--out", "x")


def test_lines_break_between_words_on_a_terminal_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "20")
    terminal, pipe = (SimpleNamespace(isatty=lambda answer=answer: answer) for answer in (True, False))
    text = "autoq: a line of more than twenty columns /a/path/that-is-longer-than-a-line"
    assert wrapped(text, pipe) == text  # type: ignore[arg-type]
    assert wrapped(text, terminal).splitlines() == [  # type: ignore[arg-type]
        *("autoq: a line of", "more than twenty", "columns", "/a/path/that-is-longer-than-a-line"),
    ]
