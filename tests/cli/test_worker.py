"""``autoq worker``."""

from __future__ import annotations

from pathlib import Path

from tests.cli.command import Command, refusal


def test_no_search_to_work_for(command: Command, tmp_path: Path) -> None:
    message = refusal(command, "worker", tmp_path / "run", "--wait", "1s")
    assert f"no search came to '{tmp_path}/run' within 1 s: start it by autoq search --executor directory" in message
    assert "cannot read time 'soon'" in refusal(command, "worker", tmp_path, "--wait", "soon")
