"""The command line as a whole: help, wrong usage, interrupts, closed pipes, full disks, what nobody expects."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import typer

import autoq
from autoq.cli.main import _status, app
from autoq.runs.session import Session
from tests.cli.command import Command, environment, process_arguments, refusal


def test_version_and_help(command: Command) -> None:
    assert command("--version").out == f"autoq {autoq.__version__}\n"
    for arguments in (["--help"], ["search", "--help"], ["sites", "--help"]):
        outcome = command(*arguments)
        assert outcome.status == 0
        assert outcome.out.startswith("Usage: ")
    bare = command()
    assert bare.status == 2
    assert "Commands:" in bare.err
    assert len(bare.err.splitlines()) > 5, "the help page keeps its lines"


@pytest.mark.parametrize("width", [80, 120])
def test_help_fits_the_terminal(command: Command, monkeypatch: pytest.MonkeyPatch, width: int) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    names = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    overview = command("-h").out
    assert "..." not in overview.partition("Commands:")[2], "summaries are whole"
    for name in names:
        page = command(name, "-h").out
        assert max(map(len, page.splitlines())) <= width
        assert page == command(name, "--help").out
        assert f"Examples:\n    autoq {name}" in page
        assert "-v, --verbose" in page
    assert re.findall(r"^(\S.*):$", command("search", "-h").out, re.MULTILINE) == [
        *("Arguments", "Model and images", "Search", "Calibration", "Finishing and reconstruction", "Other options"),
    ]


@pytest.mark.parametrize("arguments", [["sites"], ["--version"], ["export", "absent", "-o", "x"]])
def test_a_closed_standard_output(arguments: list[str], tmp_path: Path) -> None:
    line = shlex.join(process_arguments(*arguments))
    done = subprocess.run(
        ["sh", "-c", f"{line} >&-"], env=environment(), cwd=tmp_path, stderr=subprocess.PIPE, text=True, check=False
    )
    assert done.returncode == (2 if arguments[0] == "export" else 0), done.stderr
    assert "Traceback" not in done.stderr


def test_help_loads_nothing_heavy() -> None:
    code = """
        import sys, typer
        from autoq.cli.main import app
        for name in ([], ["search"], ["report"], ["export"], ["evaluate"], ["sites"], ["sensitivity"],
                     ["check-proxy"], ["quantize"], ["reconstruct"]):
            assert typer.main.get_command(app)([*name, "--help"], standalone_mode=False) in (0, None)
        heavy = {"torch", "timm", "matplotlib", "optuna", "numpy", "pandas", "sklearn", "scipy"}
        print(*sorted(heavy & sys.modules.keys()), file=sys.stderr)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], env=environment(), capture_output=True, text=True, check=True
    )
    assert done.stderr == "\n"
    assert done.stdout.count("Usage: ") == 10


def test_a_typo_is_told_before_anything_heavy_is_loaded() -> None:
    code = "import sys; from autoq.cli.main import _status; print(_status(), *{'torch', 'optuna'} & sys.modules.keys())"
    done = subprocess.run(
        [sys.executable, "-c", code, "search", "--trails", "3"], env=environment(), capture_output=True, text=True
    )
    assert done.stdout == "2\n"
    assert done.stderr.startswith("autoq: No such option: --trails")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (
            ["search", "--sampler", "tpa"],
            "tpe, random, uniform. Did you mean 'tpe'?",
        ),
        (["search", "--observer", "mze"], "--observer: unknown observer 'mze'; there are mse, min_max"),
        (["search", "--trials", "0"], "--trials: give 1 or more (got 0)."),
        (["search", "--trials", "many"], "'--trials'"),
        (["search", "--time-limit", "soon"], "cannot read time 'soon': write it as 90s, 10m or 1.5h"),
        (["search", "--time-limit", "0s"], "--time-limit: give more than 0 (got 0.0)."),
        (["search", "--seed", "-1"], "seed"),
        (
            ["search", "--proxy", "kll"],
            "--proxy: unknown proxy 'kll'; there are kl, fisher, aph, mse, agreement. Did you mean 'kl'?",
        ),
        (["search", "--sensitivity", "fischer"], "Did you mean 'fisher'?"),
        (["search", "--calib-images", "0"], "--calib-images: give 1 or more (got 0)."),
        (["search", "--trials", "9999999999999"], "--trials: give 1000000 or less (got 9999999999999)."),
        (["search", "--seed", "99999999999999999999"], "--seed: give 4294967295 or less"),
        (["quantize", "--method", "rtn", "--bits", "w4a4", "--seed", "99999999999"], "--seed"),
        (["search", "-v", "--trials", "0"], "--trials"),
        (["search", "--budget-bop", "w4a4"], "--budget-bops"),
        (["search", "a.toml", "b.toml"], "b.toml"),
        (["serch"], "search"),
        (["evaluate"], "RECIPE"),
        (["export", "."], "-o FILE"),
    ],
)
def test_usage(command: Command, arguments: list[str], expected: str) -> None:
    assert expected in refusal(command, *arguments)


def test_the_unexpected_is_one_line_too(command: Command, monkeypatch: pytest.MonkeyPatch, run: Path) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ZeroDivisionError("division\nby zero")

    monkeypatch.setattr("autoq.runs.evaluate.evaluate_recipe", fail)
    message = refusal(command, "evaluate", run / "recipes" / "w4a4.json", status=1)
    assert message == "autoq: unexpected ZeroDivisionError: division by zero (run again with `autoq -v` for details)."


def test_interrupted_elsewhere(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Commands that leave nothing to resume say so in a word."""

    def interrupt(*arguments: object) -> None:  # noqa: ARG001 - of any signature
        raise KeyboardInterrupt

    monkeypatch.setattr(Session, "open", interrupt)
    monkeypatch.setattr(sys, "argv", ["autoq", "sites"])
    assert _status() == 130
    assert capsys.readouterr() == ("", "autoq: interrupted\n")


@pytest.mark.slow
@pytest.mark.parametrize("arguments", [["sites", "--json"], ["--help"]])
def test_a_reader_that_has_seen_enough(arguments: list[str]) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        process_arguments(*arguments), env=environment(), stdout=writing, stderr=subprocess.PIPE, text=True
    )
    os.close(writing)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_standard_output_on_a_full_disk() -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            process_arguments("--version"), env=environment(), stdout=full, stderr=subprocess.PIPE, text=True
        )
    assert done.returncode == 1
    assert done.stderr.startswith("autoq: No space left on device")
    assert done.stderr.count("\n") == 1
