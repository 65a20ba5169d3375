"""Folders that live as long as what refers to them."""

from __future__ import annotations

from pathlib import Path

from autoq.api.temporary import TemporaryFolder, folder_or_temporary


def test_it_lives_as_long_as_what_refers_to_it() -> None:
    folder = TemporaryFolder()
    path = folder.path
    (path / "inside").mkdir()
    (path / "inside" / "a.txt").write_text("text")
    other = folder
    del folder
    assert (path / "inside" / "a.txt").exists()
    del other
    assert not path.exists()


def test_it_may_be_gone_already() -> None:
    folder = TemporaryFolder()
    folder.path.rmdir()
    del folder


def test_a_folder_that_is_named_is_nobody_elses(tmp_path: Path) -> None:
    assert folder_or_temporary(str(tmp_path / "run")) == (tmp_path / "run", None)
    assert not (tmp_path / "run").exists()
    path, kept = folder_or_temporary(None)
    assert kept is not None
    assert kept.path == path
    assert not list(path.iterdir())
    other, other_kept = folder_or_temporary(None)
    assert other != path
    del kept, other_kept
    assert not path.exists()
    assert not other.exists()
