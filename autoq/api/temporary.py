"""Temporary folders that are removed with the last object that refers to them."""

from __future__ import annotations

import os
import shutil
import tempfile
import weakref
from pathlib import Path


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
