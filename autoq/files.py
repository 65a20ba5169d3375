"""Write files atomically, check folders, make temporary ones, hash content."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import tempfile
import weakref
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; on success it is renamed to ``path``, on failure removed.

    The temporary file is flushed to disk before the rename, so that a full disk or a crash leaves the old file whole.
    """
    target = Path(path)
    descriptor, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.stem}-", suffix=target.suffix)
    os.close(descriptor)
    temporary = Path(name)
    try:
        yield temporary
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        temporary.chmod(0o666 & ~_umask())
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write ``text`` as UTF-8, atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def check_writable(directory: str | os.PathLike[str]) -> None:
    """Check that a directory can be made or written to; nothing is created.

    Raises:
        OSError: the directory, or the nearest parent that exists, is a file or is not writable.
    """
    nearest = Path(directory).absolute()
    while not nearest.exists():
        nearest = nearest.parent
    if not nearest.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))


def make_writable(directory: str | os.PathLike[str]) -> None:
    """Make a directory if need be, and check that files can be written there.

    Raises:
        OSError: it is a file, or is not writable.
    """
    path = Path(directory)
    path.mkdir(parents=True, exist_ok=True)
    probe = path / f".probe-{os.getpid()}"
    probe.write_bytes(b"")
    probe.unlink()


class TemporaryFolder:
    """A folder that is removed, with all that is in it, when nothing refers to this object any more.

    ``tempfile.TemporaryDirectory`` warns when that happens, as it is meant for ``with`` blocks.

    Attributes:
        path: the folder.
    """

    def __init__(self) -> None:
        """Make the folder."""
        self.path = Path(tempfile.mkdtemp(prefix="autoq-"))
        weakref.finalize(self, shutil.rmtree, self.path, ignore_errors=True)


def folder_or_temporary(out: str | os.PathLike[str] | None) -> tuple[Path, TemporaryFolder | None]:
    """Return the folder that a user has named, or a temporary one and the object that keeps it."""
    if out is not None:
        return Path(out), None
    kept = TemporaryFolder()
    return kept.path, kept


def sha256_hex(chunks: Iterable[bytes]) -> str:
    """Return the hexadecimal SHA-256 of the concatenation of ``chunks``."""
    digest = hashlib.sha256()
    for chunk in chunks:
        digest.update(chunk)
    return digest.hexdigest()


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
