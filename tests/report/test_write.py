"""A report on disk: every file whole or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from autoq.report import RunSummary, write_report
from tests.report.synthetic import with_improved, with_points, with_published


def test_a_report_is_four_files(summary: RunSummary, tmp_path: Path) -> None:
    paths = write_report(summary, tmp_path)
    assert [path.name for path in paths] == ["trials.csv", "pareto.csv", "pareto.png", "report.html"]
    assert sorted(tmp_path.iterdir()) == sorted(paths)
    assert write_report(summary, tmp_path) == paths


def test_baselines_and_improved_recipes_have_files_of_their_own(summary: RunSummary, tmp_path: Path) -> None:
    paths = write_report(with_published(with_improved(summary)), tmp_path)
    assert [path.name for path in paths][-2:] == ["baselines.csv", "improved.csv"]
    assert sorted(tmp_path.iterdir()) == sorted(paths)


def test_a_file_that_cannot_be_written_leaves_the_old_one(
    summary: RunSummary, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_report(summary, tmp_path)
    old = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def fail(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("matplotlib.figure.Figure.savefig", fail)
    with pytest.raises(OSError, match="No space left"):
        write_report(with_points(summary, lambda point: point.on_front), tmp_path)
    new = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert new.keys() == old.keys(), "nothing temporary is left"
    assert new["trials.csv"] != old["trials.csv"]
    assert (new["pareto.png"], new["report.html"]) == (old["pareto.png"], old["report.html"])


def test_the_directory_must_exist(summary: RunSummary, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        write_report(summary, tmp_path / "absent")
    assert not (tmp_path / "absent").exists()
