"""Files are written whole or not at all."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from autoq.files import TemporaryFolder, atomic_path, folder_or_temporary, sha256_hex, write_text


@contextmanager
def umask(mask: int) -> Iterator[None]:
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)


def test_the_new_file_takes_the_place_of_the_old(tmp_path: Path) -> None:
    target = tmp_path / "a.json"
    write_text(target, "old")
    write_text(target, "naïve — ünïcode")
    assert target.read_text(encoding="utf-8") == "naïve — ünïcode"
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize("error", [RuntimeError("no"), KeyboardInterrupt(), OSError(errno.ENOSPC, "full")])
def test_an_exception_leaves_the_old_file_and_nothing_else(tmp_path: Path, error: BaseException) -> None:
    target = tmp_path / "a.json"
    write_text(target, "old")

    def write_half() -> None:
        with atomic_path(target) as temporary:
            temporary.write_text("half")
            raise error

    with pytest.raises(type(error)):
        write_half()
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_a_failing_disk_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "a.json"
    write_text(target, "old")

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_text(target, "new")
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_readers_see_the_old_file_until_the_new_one_is_whole(tmp_path: Path) -> None:
    target = tmp_path / "a.json"
    write_text(target, "old")
    with atomic_path(target) as temporary:
        temporary.write_text("new")
        assert target.read_text() == "old"
        assert temporary.parent == target.parent  # a rename across file systems would not be atomic
        assert temporary.suffix == target.suffix  # matplotlib chooses its format by it
    assert target.read_text() == "new"


@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_permissions_follow_the_umask(tmp_path: Path, mask: int, mode: int) -> None:
    with umask(mask):
        write_text(tmp_path / "a.json", "text")
    assert stat.S_IMODE((tmp_path / "a.json").stat().st_mode) == mode


def test_a_missing_folder_is_not_made(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        write_text(tmp_path / "absent" / "a.json", "text")
    assert list(tmp_path.iterdir()) == []


def test_sha256_is_of_the_concatenation() -> None:
    expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # FIPS 180-2, appendix B.1
    assert sha256_hex([b"a", b"", b"bc"]) == sha256_hex([b"abc"]) == expected


def test_a_temporary_folder_lives_as_long_as_what_refers_to_it() -> None:
    folder = TemporaryFolder()
    path = folder.path
    (path / "inside").mkdir()
    (path / "inside" / "a.txt").write_text("text")
    other = folder
    del folder
    assert (path / "inside" / "a.txt").exists()
    del other
    assert not path.exists()


def test_a_temporary_folder_may_be_gone_already() -> None:
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
