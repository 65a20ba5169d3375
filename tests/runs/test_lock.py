"""One process at a time in a run's directory, and whom to wait for."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from autoq.errors import RunDirectoryError
from autoq.runs.lock import LOCK_NAME, hold_directory


def python(code: str, *arguments: object) -> list[str]:
    return [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)]


def test_a_second_holder_is_told_who_the_first_is(tmp_path: Path) -> None:
    code = """
        import sys
        from autoq.errors import RunDirectoryError
        from autoq.runs.lock import hold_directory
        try:
            with hold_directory(sys.argv[1]):
                print("held")
        except RunDirectoryError as error:
            print(error)
    """
    with hold_directory(tmp_path):
        with pytest.raises(RunDirectoryError, match=f"in use by process {os.getpid()}"), hold_directory(tmp_path):
            pass
        refused = subprocess.run(python(code, tmp_path), capture_output=True, text=True, check=True).stdout
        assert f"run directory '{tmp_path}' is in use by process {os.getpid()}" in refused
    assert subprocess.run(python(code, tmp_path), capture_output=True, text=True, check=True).stdout == "held\n"


def test_a_killed_holder_leaves_no_lock(tmp_path: Path) -> None:
    code = """
        import sys, time
        from autoq.runs.lock import hold_directory
        with hold_directory(sys.argv[1]):
            print("held", flush=True)
            time.sleep(60)
    """
    with subprocess.Popen(python(code, tmp_path), stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(RunDirectoryError, match=f"in use by process {holder.pid};"), hold_directory(tmp_path):
            pass
        holder.kill()
    with hold_directory(tmp_path):
        pass
    assert (tmp_path / LOCK_NAME).read_text() == f"{os.getpid()}\n"


def test_the_file_stays_the_same(tmp_path: Path) -> None:
    """A waiter that has opened a file which the holder then removes would hold what nobody else sees."""
    with hold_directory(tmp_path):
        before = (tmp_path / LOCK_NAME).stat().st_ino
    with hold_directory(tmp_path):
        assert (tmp_path / LOCK_NAME).stat().st_ino == before
    assert [path.name for path in tmp_path.iterdir()] == [LOCK_NAME]


def test_an_error_gives_it_back(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), hold_directory(tmp_path):
        raise KeyboardInterrupt
    with hold_directory(tmp_path):
        pass


def test_unusable_directories(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(RunDirectoryError, match=r"cannot lock run directory .*file': File exists"):
        hold_directory(tmp_path / "file").__enter__()
    if os.geteuid() != 0:  # root may write anywhere
        tmp_path.chmod(0o555)
        with pytest.raises(RunDirectoryError, match=r"cannot lock .*Permission denied"):
            hold_directory(tmp_path).__enter__()
        tmp_path.chmod(0o755)
