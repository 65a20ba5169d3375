"""Run ``autoq`` in this process or in one of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import autoq
from autoq.cli.main import _status
from autoq.display import _NAMES
from tests.runs.small_run import small_settings

ROOT = Path(autoq.__file__).parent.parent


@dataclass(frozen=True)
class Outcome:
    """Exit status and what was printed."""

    status: int
    out: str
    err: str

    @property
    def complaints(self) -> list[str]:
        """Lines on standard error that are not about progress."""
        progress = tuple(f"autoq: {name}" for name in (*_NAMES.values(), "first recipe"))
        return [line for line in self.err.splitlines() if not line.startswith(progress)]


Command = Callable[..., Outcome]


def in_process(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Command:
    """A function that runs ``autoq`` with its arguments, as the console script would."""

    def command(*arguments: object) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["/usr/bin/autoq", *map(str, arguments)])
        capsys.readouterr()
        status = _status()
        return Outcome(status, *capsys.readouterr())

    return command


def process_arguments(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "autoq", *map(str, arguments)]


def environment() -> dict[str, str]:
    """As a user's: output is buffered, so that what cannot be written shows when Python exits."""
    ours = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    return ours | {"PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "default"}


def in_a_process(*arguments: object, cwd: Path) -> Outcome:
    done = subprocess.run(process_arguments(*arguments), cwd=cwd, env=environment(), capture_output=True, text=True)
    return Outcome(done.returncode, done.stdout, done.stderr)


def one_json(outcome: Outcome) -> Any:
    """The JSON of a command that had nothing else to say."""
    assert outcome.status == 0, outcome.err
    assert outcome.complaints == []
    assert outcome.out.count("\n") == 1
    return json.loads(outcome.out)


def small_options(folder: Path, **changes: Any) -> list[object]:
    """Options of ``autoq search`` that make it small."""
    settings = small_settings(folder)
    options = {"space": settings.space, "eval-data": settings.eval_data, "trials": 8, "calib-images": 16}
    return ["--fast", *(part for name, value in (options | changes).items() for part in (f"--{name}", value))]


def search_arguments(folder: Path, trials: int) -> list[object]:
    """A small search into ``a run``."""
    return ["search", "--budget-bops", "w4a4", *small_options(folder, trials=trials), "--out", folder / "a run"]


def listing(folder: Path) -> dict[str, bytes | None]:
    """Every file below a folder with its content."""
    return {str(path): path.read_bytes() if path.is_file() else None for path in sorted(folder.rglob("*"))}


def refusal(command: Command, *arguments: object, status: int = 2) -> str:
    """The one line of complaint, after checking that nothing was written."""
    before = listing(Path())
    outcome: Outcome = command(*arguments)
    assert (outcome.status, outcome.out) == (status, ""), outcome.err
    assert len(outcome.complaints) == 1, outcome.err
    assert outcome.complaints[0].startswith("autoq: ")
    assert listing(Path()) == before, "something was written"
    return outcome.complaints[0]


def stopped_at(phase: str, number: signal.Signals, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run ``autoq`` in a process of its own, which gets a signal when it tells of a phase; return how it ended.

    What it said up to the signal is not in the result's ``stderr``.
    """
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
    return subprocess.CompletedProcess(process.args, process.returncode, out, rest)


def resize(disk: Path, kibibytes: int) -> None:
    """Give a file system of its own another size."""
    subprocess.run(["mount", "-o", f"remount,size={kibibytes}k", disk], check=True)
