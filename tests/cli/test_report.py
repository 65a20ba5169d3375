"""``autoq report``."""

from __future__ import annotations

import shutil
from pathlib import Path

from tests.cli.command import Command, one_json, refusal, resize
from tests.runs.small_run import finished_run

REPORT = {"pareto.csv", "pareto.png", "report.html", "trials.csv"}


def test_report(command: Command, copy: Path) -> None:
    outcome = command("report", copy)
    assert outcome.status == 0
    headline, *paths = outcome.out.splitlines()
    assert "KL" in headline
    assert {Path(path).name for path in paths} == REPORT
    assert all(Path(path).stat().st_size for path in paths)
    document = one_json(command("report", copy, "--json"))
    assert document == {"out": str(copy), "headline": headline, "files": paths}


def test_the_picture_in_another_format(command: Command, copy: Path) -> None:
    assert command("report", copy, "--format", "svg").status == 0
    assert (copy / "pareto.svg").read_text(encoding="utf-8").startswith("<?xml")
    tables = [copy / "trials.csv", copy / "pareto.csv"]
    for table in tables:
        table.unlink()
    assert "unknown format 'gif'" in refusal(command, "report", str(copy), "--format", "gif")
    assert not any(table.exists() for table in tables), "refused before anything is written"


def test_what_is_no_run_directory(command: Command) -> None:
    assert "'absent' is no run directory" in refusal(command, "report", "absent")
    assert "'.' is no run directory" in refusal(command, "report", ".")


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
