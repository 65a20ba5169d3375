import pytest

from tests.cli.command import Command, in_process
from tests.runs.small_run import trace_once


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Command:
    """``autoq`` in this process, on the bundled model as it was traced first."""
    trace_once(monkeypatch)
    return in_process(capsys, monkeypatch)


@pytest.fixture
def plain_command(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Command:
    """``autoq`` in this process, with nothing replaced."""
    return in_process(capsys, monkeypatch)
