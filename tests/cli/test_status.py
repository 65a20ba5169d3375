"""``autoq status``."""

from __future__ import annotations

from tests.cli.command import Command, one_json, refusal
from tests.runs.small_run import TRIALS, finished_run


def test_status(command: Command) -> None:
    outcome = command("status", finished_run())
    assert outcome.status == 0
    lines = dict(line.split(":", 1) for line in outcome.out.splitlines())
    assert lines["search"].strip() == f"{finished_run()} (finished)"
    assert lines["trials"].strip().startswith(f"{TRIALS} of {TRIALS}: ")
    assert "BOPs" in lines["best"]
    document = one_json(command("status", finished_run(), "--json"))
    assert document["done"] == document["wanted"] == TRIALS
    assert document["best"]["cost"] <= document["budget"]


def test_what_cannot_be_read(command: Command) -> None:
    assert "'absent' is no run directory" in refusal(command, "status", "absent")
    assert "there is no database '/absent.db'" in refusal(command, "status", "sqlite:////absent.db")
