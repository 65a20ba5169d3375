"""Interrupts, closed pipes, full disks: one line, the right exit status, and the same command goes on."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from autoq.cli.main import _status
from autoq.optimization.storage import load_trials
from autoq.runs.search.directory import SearchDirectory
from autoq.runs.session import Session
from tests.cli.command import Command, environment, process_arguments
from tests.runs.small_run import TRIALS, finished_run, small_settings


def search_arguments(folder: Path, trials: int) -> list[object]:
    settings = small_settings(folder)
    options = ("--space", settings.space, "--eval-data", settings.eval_data, "--calib-images", 16, "--trials", trials)
    return ["search", "--budget-bops", "w4a4", *options, "--out", folder / "a run"]


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


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "phase"), [(signal.SIGINT, "evaluating recipes"), (signal.SIGTERM, "calibrating options")]
)
def test_interrupted(tmp_path: Path, command: Command, number: signal.Signals, phase: str) -> None:
    arguments = search_arguments(tmp_path, 100_000)
    process = subprocess.Popen(
        process_arguments(*arguments),
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A shell starts its background jobs with SIGINT ignored, and children inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    watchdog = threading.Timer(120, process.kill)
    watchdog.start()
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith(f"autoq: {phase}"):
            process.send_signal(number)
            break
    out, rest = process.communicate()
    watchdog.cancel()
    assert process.returncode == 130, rest
    assert out == ""
    lines = [line for line in rest.splitlines() if not line.startswith(f"autoq: {phase}")]
    assert lines[-1].startswith(
        "autoq: interrupted; run the same command to resume: python -m autoq search --budget-bops"
    )
    assert lines[-1].endswith(f"--out '{tmp_path}/a run'"), "quoted, so that it can be pasted"
    assert lines[:-1] == [f"autoq: {tmp_path}/a run/report.html shows the trials so far"]
    assert (tmp_path / "a run" / "report.html").stat().st_size > 10_000
    assert SearchDirectory(tmp_path / "a run").require().state == "interrupted"

    stored = len(load_trials(tmp_path / "a run" / "study.log", "autoq"))
    resumed = command(*arguments[:-3], max(stored, TRIALS) + 1, *arguments[-2:])
    assert (resumed.status, resumed.complaints) == (0, [])
    assert len(load_trials(tmp_path / "a run" / "study.log", "autoq")) == max(stored, TRIALS) + 1


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


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own, that ``resize`` gives a size."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if os.geteuid() != 0 or not shutil.which("mount"):
        pytest.skip("only root can mount a small file system")
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=32k", "tmpfs", folder], capture_output=True).returncode:
        pytest.skip("this machine does not allow to mount a small file system")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


def resize(disk: Path, kibibytes: int) -> None:
    subprocess.run(["mount", "-o", f"remount,size={kibibytes}k", disk], check=True)


def check_whole(out: Path) -> None:
    """Every file can be read, and nothing temporary is left."""
    for path in out.rglob("*.json"):
        json.loads(path.read_text(encoding="utf-8"))
    assert not [path for path in out.rglob(".*") if path.name != ".lock"]


@pytest.mark.parametrize("kibibytes", [8, 32, 144, 208, 304])
def test_a_full_disk(disk: Path, command: Command, kibibytes: int) -> None:
    """Wherever it fills up: the bank, the study, a recipe, the picture."""
    arguments = search_arguments(disk.parent, TRIALS)
    arguments[-1] = out = disk / "run"
    resize(disk, kibibytes)
    outcome = command(*arguments)
    assert (outcome.status, outcome.out) == (1, "")
    assert len(outcome.complaints) == 1, outcome.err
    assert "No space left on device" in outcome.complaints[0]
    check_whole(out)
    stored = len(load_trials(out / "study.log", "autoq")) if (out / "run.json").exists() else 0

    resize(disk, 8192)
    resumed = command(*arguments)
    assert (resumed.status, resumed.complaints) == (0, [])
    check_whole(out)
    assert len(load_trials(out / "study.log", "autoq")) == TRIALS >= stored
    assert (out / "report.html").exists()


def test_a_report_on_a_full_disk_leaves_the_old_one(disk: Path, command: Command) -> None:
    resize(disk, 8192)
    shutil.copytree(finished_run(), disk / "run")
    assert command("report", disk / "run").status == 0
    old = {path.name: path.read_bytes() for path in (disk / "run").iterdir() if path.is_file()}
    usage = shutil.disk_usage(disk)
    (disk / "ballast").write_bytes(b"\0" * max(0, usage.free - 8192))
    outcome = command("report", disk / "run")
    assert outcome.status == 1
    assert "No space left on device" in outcome.complaints[0]
    assert {path.name: path.read_bytes() for path in (disk / "run").iterdir() if path.is_file()} == old


def test_interrupted_elsewhere(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Commands that leave nothing to resume say so in a word."""

    def interrupt(*arguments: object) -> None:  # noqa: ARG001 - of any signature
        raise KeyboardInterrupt

    monkeypatch.setattr(Session, "open", interrupt)
    monkeypatch.setattr(sys, "argv", ["autoq", "sites"])
    assert _status() == 130
    assert capsys.readouterr() == ("", "autoq: interrupted\n")
