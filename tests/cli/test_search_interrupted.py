"""``autoq search`` on Ctrl-C and on a full disk: one line, the right exit status, and the same command goes on."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest

from autoq.optimization.storage import load_trials
from autoq.runs.search.directory import SearchDirectory
from tests.cli.command import Command, resize, search_arguments, stopped_at
from tests.runs.small_run import TRIALS


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "phase"), [(signal.SIGINT, "evaluating recipes"), (signal.SIGTERM, "calibrating options")]
)
def test_interrupted(tmp_path: Path, command: Command, number: signal.Signals, phase: str) -> None:
    process = stopped_at(phase, number, *search_arguments(tmp_path, 100_000))
    out, rest = process.stdout, process.stderr
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
    resumed = command(*search_arguments(tmp_path, max(stored, TRIALS) + 1))
    assert (resumed.status, resumed.complaints) == (0, [])
    assert len(load_trials(tmp_path / "a run" / "study.log", "autoq")) == max(stored, TRIALS) + 1


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
