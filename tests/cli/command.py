"""Run ``autoq`` in this process or in one of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

import autoq
from autoq.cli.main import _status
from autoq.display import _NAMES

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
        progress = tuple(f"autoq: {name}" for name in _NAMES.values())
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
    done = subprocess.run(
        process_arguments(*arguments), cwd=cwd, env=environment(), capture_output=True, text=True, timeout=120
    )
    return Outcome(done.returncode, done.stdout, done.stderr)
