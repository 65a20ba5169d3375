"""The study of a run on disk: an Optuna journal that survives ``kill -9``, full disks and power loss.

Trials are proposed in memory and written once, finished: one line and one ``fsync`` each, where suggesting through the
storage costs one for every parameter. One process writes (the run holds its directory); any number may read.
"""

from __future__ import annotations

import importlib
import logging
import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Literal, Protocol, Self

import optuna
from optuna.storages import BaseStorage, JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from optuna.trial import FrozenTrial

from autoq.errors import RunDirectoryError, RunError

fcntl: ModuleType | None
try:
    fcntl = importlib.import_module("fcntl")
except ImportError:  # Windows
    fcntl = None

logger = logging.getLogger(__name__)

Direction = Literal["minimize", "maximize"]

_JOURNAL_START = b'{"op_code":'


class JournalLock(Protocol):
    """What ``JournalFileBackend`` asks of a lock; Optuna has the type under a private name only."""

    def acquire(self) -> bool:
        """Wait for the lock."""

    def release(self) -> None:
        """Give the lock back."""


class TrialCopy(Protocol):
    """What follows a store, such as ``autoq.optimization.database.StudyDatabase``."""

    def follow(self, trials: Sequence[FrozenTrial]) -> int:
        """Write the trials that are lacking there; raise nothing if that fails, and return how many still are."""


class FlockJournalLock:
    """An advisory lock on the journal itself, which the kernel releases when its holder dies.

    Optuna's own locks are files that outlive a killed holder and are waited for, 30 s, before they are broken.
    """

    def __init__(self, path: Path) -> None:
        """Lock ``path``, which is created if missing."""
        self._path = path
        self._descriptor: int | None = None

    def acquire(self) -> bool:
        """Wait for the lock."""
        assert fcntl is not None  # noqa: S101
        self._descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o666)
        fcntl.flock(self._descriptor, fcntl.LOCK_EX)
        return True

    def release(self) -> None:
        """Give the lock back."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def open_journal(path: str | os.PathLike[str]) -> JournalStorage:
    """Open or create a journal for writing, repairing what a crash left half-written.

    Raises:
        RunDirectoryError: the file cannot be written, or is no journal.
    """
    journal = Path(path).absolute()  # relative paths confuse Optuna's symlink lock
    lock = _journal_lock(journal)
    try:
        with _held(lock):
            _repair_(journal)
        return JournalStorage(_backend(journal, lock))
    except RunDirectoryError:
        raise
    except OSError as error:
        raise RunDirectoryError(f"cannot write study {os.fspath(journal)!r}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError) as error:  # what replaying damaged lines raises
        raise RunDirectoryError(_damaged(journal, error)) from error


def name_objectives(study: optuna.Study, names: Sequence[str]) -> None:
    """Write the names of a study's objectives, unless it has them."""
    if names and study.metric_names != list(names):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            study.set_metric_names(list(names))


class TrialStore:
    """A study that finished trials are appended to."""

    def __init__(self, storage: BaseStorage, study_name: str, directions: Sequence[Direction]) -> None:
        """Open the study ``study_name`` in ``storage``, or create it.

        Raises:
            RunDirectoryError: the study exists with other directions.
        """
        with quiet_optuna():
            self._study = optuna.create_study(
                storage=storage, study_name=study_name, directions=list(directions), load_if_exists=True
            )
        self._storage, self._id = storage, storage.get_study_id_from_name(study_name)
        found = [direction.name.lower() for direction in self._study.directions]
        if found != list(directions):
            raise RunDirectoryError(f"study {study_name!r} has directions {found}, not {list(directions)}; use another")
        self._journal: Path | None = None
        self._copy: TrialCopy | None = None

    @classmethod
    def open(
        cls,
        path: str | os.PathLike[str],
        study_name: str,
        directions: Sequence[Direction] = ("minimize", "minimize"),
        copy: TrialCopy | None = None,
        objectives: Sequence[str] = (),
    ) -> Self:
        """Open or create ``study_name`` in the journal at ``path``; ``copy`` is given all trials, those there too.

        Args:
            path: of the journal.
            study_name: of the study.
            directions: of its objectives.
            copy: what follows it.
            objectives: their names, for dashboards and plots.

        Raises:
            RunDirectoryError: the journal cannot be written or read, or has the study with other directions.
        """
        storage = open_journal(path)
        try:
            store = cls(storage, study_name, directions)
            name_objectives(store.study, objectives)
        except OSError as error:
            raise RunDirectoryError(f"cannot write study {os.fspath(path)!r}: {error.strerror}") from error
        store._journal, store._copy = Path(path).absolute(), copy
        if copy is not None:
            copy.follow(store.load_trials())
        return store

    @property
    def study(self) -> optuna.Study:
        """The Optuna study, for samplers and plots; write to it through ``append`` only."""
        return self._study

    def load_trials(self) -> list[FrozenTrial]:
        """Return all trials in the order in which they were written; not copied, not to be changed."""
        return self._study.get_trials(deepcopy=False)

    def append(self, trial: FrozenTrial) -> int:
        """Write one finished trial durably and return its number.

        Raises:
            ValueError: the trial is not finished, or has not a value for each objective.
            TypeError: a user or system attribute is not JSON.
            RunError: it cannot be written (a full disk); what is half-written is taken back, and a later call works.
        """
        if not trial.state.is_finished():
            raise ValueError(f"only finished trials are stored, not one in state {trial.state.name}")
        if trial.values is not None and len(trial.values) != (objectives := len(self._study.directions)):
            raise ValueError(f"a trial with {len(trial.values)} values, where the number of objectives is {objectives}")
        try:
            number = self._storage.get_trial_number_from_id(self._storage.create_new_trial(self._id, trial))
        except OSError as error:
            if self._journal is not None:
                with _held(_journal_lock(self._journal)):
                    _repair_(self._journal)
            raise RunError(f"cannot write a trial to {os.fspath(self._journal or 'storage')!r}: {error}") from error
        if self._copy is not None:
            self._copy.follow(self.load_trials())
        return number


def load_trials(path: str | os.PathLike[str], study_name: str) -> list[FrozenTrial]:
    """Read the trials of a study that another process may be writing; nothing is created, locked or repaired.

    Raises:
        RunDirectoryError: there is no such journal or study, or the journal is damaged.
    """
    journal = Path(path).absolute()
    if not journal.is_file():
        raise RunDirectoryError(f"there is no study at {os.fspath(journal)!r}")
    try:
        storage = JournalStorage(_backend(journal, _journal_lock(journal)))
        return storage.get_all_trials(storage.get_study_id_from_name(study_name), deepcopy=False)
    except KeyError as error:
        raise RunDirectoryError(f"{os.fspath(journal)!r} holds no study {study_name!r}") from error
    except OSError as error:
        raise RunDirectoryError(f"cannot read study {os.fspath(journal)!r}: {error.strerror}") from error
    except (ValueError, TypeError) as error:
        raise RunDirectoryError(_damaged(journal, error)) from error


@contextmanager
def quiet_optuna() -> Iterator[None]:
    """Keep what Optuna logs of a new study off the terminal, for a ``with`` block."""
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(verbosity)


def _journal_lock(journal: Path) -> JournalLock:
    return FlockJournalLock(journal) if fcntl is not None else JournalFileOpenLock(os.fspath(journal))


def _backend(journal: Path, lock: JournalLock) -> JournalFileBackend:
    return JournalFileBackend(os.fspath(journal), lock_obj=lock)  # type: ignore[arg-type]  # calls nothing else of it


@contextmanager
def _held(lock: JournalLock) -> Iterator[None]:
    lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _repair_(journal: Path) -> None:
    """Cut ``journal`` at its last newline: Optuna reads past a torn line, but its next write would be glued to it."""
    if not journal.exists():
        return
    with journal.open("rb+") as file:
        start = file.read(len(_JOURNAL_START))
        if start != _JOURNAL_START[: len(start)]:
            raise RunDirectoryError(f"{os.fspath(journal)!r} is no study journal; choose another place")
        content = start + file.read()
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            logger.warning("%s: dropped %d bytes of a half-written last line", journal, len(content) - whole)
            file.truncate(whole)
            file.flush()
            os.fsync(file.fileno())


def _damaged(journal: Path, error: Exception) -> str:
    return f"study {os.fspath(journal)!r} is damaged ({error}); move it away to start again"
