"""``autoq export``."""

from __future__ import annotations

from pathlib import Path

from autoq.recipe import Recipe
from tests.cli.command import Command, one_json, refusal


def test_export(command: Command, run: Path, tmp_path: Path) -> None:
    outcome = command("export", run, "--pick", "w4a4", "-o", tmp_path / "mine.json")
    assert (outcome.status, outcome.out) == (0, f"w4a4, as searched -> {tmp_path / 'mine.json'}\n")
    assert Recipe.load(tmp_path / "mine.json") == Recipe.load(run / "recipes" / "w4a4.json")
    document = one_json(command("export", run, "-o", tmp_path / "best.json", "--json"))
    assert (document["format"], document["version"]) == ("recipe", "searched")
    assert Recipe.load(tmp_path / "best.json") == Recipe.load(run / "recipes" / f"{document['id']}.json")


def test_exports(command: Command, run: Path) -> None:
    assert "Did you mean 'knee'?" in refusal(command, "export", run, "--pick", "kne", "-o", "x")
    assert "the cheapest is w3a3" in refusal(command, "export", run, "--pick", "1M", "-o", "x")
    message = refusal(command, "export", run, "--format", "recip", "-o", "x")
    assert "unknown format 'recip'" in message
    assert "Did you mean 'recipe'?" in message
    message = refusal(command, "export", run, "--pick", "w4a4", "--as", "finished", "-o", "x")
    assert "w4a4 is not finished, nothing is: run the search with --finish" in message
    assert "Did you mean 'finished'?" in refusal(command, "export", run, "--as", "finishd", "-o", "x")
    assert "cannot write 'absent/x': No such file" in refusal(command, "export", run, "-o", "absent/x")


def test_what_is_no_run_directory(command: Command) -> None:
    assert "'absent' is no run directory" in refusal(command, "export", "absent", "-o", "x")
    assert "'.' is no run directory" in refusal(command, "export", ".", "-o", "x")
