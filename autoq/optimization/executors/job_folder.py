"""A folder that a driver and workers on any machines share: who claims a job's file by renaming it evaluates it.

Clocks of machines differ: that a process lives is seen by its file changing, timed by the clock of who looks.
"""

from __future__ import annotations

import contextlib
import pickle
import shutil
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from autoq.files import atomic_path

CURRENT = "current"
"""Names the folder of the last driver."""
BEAT_SECONDS = 2.0
"""How often whoever lives says so."""


class JobFolder:
    """The files that one driver shares with its workers.

    Objects are pickled: whoever can write to the folder can run code as the driver and as the workers.

    Attributes:
        path: of the folder.
        specification: what workers are built from.
        driver: changes as long as the driver lives.
        open: jobs that nobody has claimed.
        claimed: jobs by name and worker.
        done: outcomes by the name of their job.
        workers: a file for each worker, which changes as long as it lives.
        refused: messages of workers that are not fit.
    """

    def __init__(self, path: Path) -> None:
        """Name the files; nothing is made."""
        self.path = path
        self.specification, self.driver = path / "specification", path / "driver"
        self.open, self.claimed, self.done = path / "open", path / "claimed", path / "done"
        self.workers, self.refused = path / "workers", path / "refused"

    @classmethod
    def begun(cls, parent: Path, specification: object) -> JobFolder:
        """Make a driver's folder in ``parent``, and remove those of drivers that have ended."""
        parent.mkdir(parents=True, exist_ok=True)
        folder = cls(parent / uuid.uuid4().hex)
        for each in (folder.open, folder.claimed, folder.done, folder.workers, folder.refused):
            each.mkdir(parents=True)
        write_object(folder.specification, specification)
        write_object(parent / CURRENT, folder.path.name)
        for other in parent.iterdir():
            if other.is_dir() and other != folder.path:
                shutil.rmtree(other, ignore_errors=True)
        return folder

    @classmethod
    def current(cls, parent: Path) -> JobFolder | None:
        """Return the folder of the last driver, or None before the first and after the last."""
        name = cls._named(parent)
        folder = cls(parent / name) if name else None
        return folder if folder is not None and folder.specification.exists() else None

    @classmethod
    def is_over(cls, parent: Path) -> bool:
        """Tell whether the last driver has said that no other is to be waited for."""
        return cls._named(parent) == ""

    @staticmethod
    def _named(parent: Path) -> str | None:
        try:
            return str(read_object(parent / CURRENT))
        except FileNotFoundError:
            return None

    def remove(self, is_last: bool) -> None:
        """Remove the folder: workers take that for a word to stop.

        Args:
            is_last: whether no other driver is to be waited for.
        """
        if is_last:
            write_object(self.path.parent / CURRENT, "")
        shutil.rmtree(self.path, ignore_errors=True)

    def claim(self, worker: str) -> Path | None:
        """Claim an open job and return its file, or None if there is none."""
        for name in names(self.open):
            claimed = self.claimed / f"{name}@{worker}"
            with contextlib.suppress(FileNotFoundError):  # another worker was faster
                (self.open / name).rename(claimed)
                return claimed
        return None


def names(folder: Path) -> list[str]:
    """List the whole files of a folder, oldest job first; none where there is no folder."""
    try:
        return sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))
    except FileNotFoundError:
        return []


def write_object(path: Path, value: object) -> None:
    """Write an object whole or not at all."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(pickle.dumps(value))


def read_object(path: Path) -> Any:
    """Read an object."""
    return pickle.loads(path.read_bytes())  # noqa: S301 - whoever writes there may run code here anyway


@contextmanager
def beating(path: Path) -> Iterator[None]:
    """Change a file every few seconds in a ``with`` block, and remove it after that."""
    over = threading.Event()

    def beat() -> None:
        count = 0
        while not over.is_set():
            count += 1
            with contextlib.suppress(OSError):  # a full disk must not look like an end
                path.write_text(str(count), encoding="utf-8")
            over.wait(BEAT_SECONDS)

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        path.unlink(missing_ok=True)


class Pulse:
    """When files that change were last seen to do so, by this process's own clock."""

    def __init__(self) -> None:
        """Know no file."""
        self._seen: dict[Path, tuple[bytes, float]] = {}

    def seconds(self, path: Path) -> float:
        """Return how long a file has not changed, at least; infinity if there is none."""
        try:
            content = path.read_bytes()
        except OSError:
            self._seen.pop(path, None)
            return float("inf")
        before, since = self._seen.get(path, (b"", 0.0))
        if content != before or path not in self._seen:
            self._seen[path] = (content, time.monotonic())
            return 0.0
        return time.monotonic() - since
