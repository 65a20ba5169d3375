"""Exclusive use of a run's directory."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from autoq.errors import RunDirectoryError

LOCK_NAME = ".lock"
"""The file in a run directory that its writer holds; it says which process that is."""


@contextmanager
def hold_directory(directory: str | os.PathLike[str]) -> Iterator[None]:
    """Hold a directory, made if missing, for a ``with`` block, so that no other process writes to it meanwhile.

    The kernel releases the lock if its holder dies. The file stays: removing it would race with the next holder.

    Raises:
        RunDirectoryError: another process holds it (the message names it), or it is not writable.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder, hold_directory(folder):
    ...     pass
    """
    where, path = os.fspath(directory), Path(directory) / LOCK_NAME
    lock = FileLock(path, blocking=False, preserve_lock_file=True)
    try:
        lock.acquire()
        path.write_text(f"{os.getpid()}\n", encoding="utf-8")
    except Timeout as error:
        raise RunDirectoryError(
            f"run directory {where!r} is in use by process {_holder(path)}; "
            "wait for it, stop it, or choose another --out"
        ) from error
    except OSError as error:
        lock.release()
        raise RunDirectoryError(f"cannot lock run directory {where!r}: {error.strerror}") from error
    try:
        yield
    finally:
        lock.release()


def _holder(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip() or "unknown"
    except OSError:  # Windows keeps others from reading a locked file
        return "unknown"
