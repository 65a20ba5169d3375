"""A copy of a study in a database: for dashboards, and to be read on other machines.

The journal in the run directory is what a search goes on from; the copy follows it. A database that is away for a while
stops nothing, and nothing is counted twice there: what it lacks is found by comparing, not by counting.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import optuna
from optuna.exceptions import StorageInternalError
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial
from sqlalchemy import URL, make_url
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from autoq.errors import StorageError
from autoq.identity import describe_changes
from autoq.optimization.storage import name_objectives, quiet_optuna

OWNER = "autoq"
"""The attribute of a study that says which search writes it."""
_DRIVERS = {"postgresql": "psycopg", "mysql": "pymysql"}
"""The Python package that is used where a URL names none; each database is an extra of its own name."""
_CONNECT_SECONDS = 10
_AGAIN_SECONDS = 10.0
"""How long a database that has failed is left alone."""
_logger = logging.getLogger(__name__)

Key = tuple[str, str, bool]


class StudyDatabase:
    """The study of one search in a database that Optuna knows; written by the driver of that search alone."""

    def __init__(self, url: str, name: str, owner: Mapping[str, Any], objectives: Sequence[str] = ()) -> None:
        """Open or create a study.

        Args:
            url: of the database, as SQLAlchemy has it.
            name: of the study.
            owner: what the search depends on, plain JSON; ``run`` tells its run directory from others, ``directory``
                says where that is.
            objectives: names of the two objectives.

        Raises:
            StorageError: the database cannot be used, or the study is another search's.
        """
        self._shown, self._name = shown_url(url), name
        with _explained(url), quiet_optuna():
            self._storage = _open(url)
            study = optuna.create_study(
                storage=self._storage, study_name=name, directions=["minimize"] * 2, load_if_exists=True
            )
            found = study.user_attrs.get(OWNER)
            if found is None and study.get_trials(deepcopy=False):
                raise StorageError(f"study {name!r} in {self._shown} is none of autoq's: choose another --study-name")
            if found is not None:
                self._refuse_other(found, owner)
            study.set_user_attr(OWNER, dict(owner))
            name_objectives(study, objectives)
        self._study_id = self._storage.get_study_id_from_name(name)
        self._known: set[Key] | None = None
        self._not_before = 0.0

    def follow(self, trials: Sequence[FrozenTrial], patient: bool = False) -> int:
        """Write the trials that the database lacks; if it cannot be reached, warn, and leave it alone for a while.

        Args:
            trials: of the journal.
            patient: try in any case.

        Returns:
            How many it still lacks.
        """
        if not patient and time.monotonic() < self._not_before:
            return len(trials)
        known = self._known
        try:
            if known is None:  # a commit whose answer was lost may or may not have been made
                stored = self._storage.get_all_trials(self._study_id, deepcopy=False)
                known = {_key(trial) for trial in stored}
            for trial in trials:
                if (key := _key(trial)) not in known:
                    self._storage.create_new_trial(self._study_id, trial)
                    known.add(key)
        except (StorageInternalError, SQLAlchemyError) as error:
            self._known = None
            if self._not_before == 0.0:
                _logger.warning("%s is away, and is caught up with later: %s", self._shown, _reason(error))
            self._not_before = time.monotonic() + _AGAIN_SECONDS
            return len(trials) if known is None else sum(_key(trial) not in known for trial in trials)
        self._known, self._not_before = known, 0.0
        return 0

    def close(self, trials: Sequence[FrozenTrial]) -> None:
        """Write what is still lacking, and say so if that fails."""
        if left := self.follow(trials, patient=True):
            _logger.warning("%s lacks up to %d trials: the same command adds them", self._shown, left)
        self._storage.engine.dispose()

    def _refuse_other(self, found: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
        """Refuse a study that another run directory writes; what its own depends on is that directory's to check."""
        if found.get("run") == wanted["run"]:
            return
        changes = describe_changes(found, wanted, [key for key in wanted if key not in ("run", "directory", "trials")])
        raise StorageError(
            f"study {self._name!r} in {self._shown} is written by the search in {found.get('directory')}"
            + (f", which differs in {changes}; choose" if changes else ": go on there, or choose")
            + " another --study-name"
        )


def read_study(url: str, name: str | None = None) -> tuple[str, Mapping[str, Any], list[FrozenTrial]]:
    """Read the study of a search from a database.

    Args:
        url: of the database.
        name: of the study; None: the only one that a search writes.

    Returns:
        Its name, what its search depends on, and its trials.

    Raises:
        StorageError: the database cannot be used, or has no such study.
    """
    with _explained(url), quiet_optuna():
        storage = _open(url, reads=True)
        studies = {study.study_name: study for study in storage.get_all_studies() if OWNER in study.user_attrs}
        if name is None and len(studies) == 1:
            [name] = studies
        if name is None or name not in studies:
            there_are = ", ".join(sorted(studies)) or "none"
            wanted = "several studies, or none: give --study-name" if name is None else f"no study {name!r} of a search"
            raise StorageError(f"{shown_url(url)} has {wanted}; there are {there_are}")
        trials = storage.get_all_trials(studies[name]._study_id, deepcopy=False)
        storage.engine.dispose()
    return name, studies[name].user_attrs[OWNER], trials


def shown_url(url: str) -> str:
    """Return a URL without its password.

    Raises:
        StorageError: it cannot be read.
    """
    return _parsed(url).render_as_string(hide_password=True)


def without_password(url: str) -> str:
    """Return a URL as it may be written down; databases find passwords elsewhere (``PGPASSWORD``, ``~/.pgpass``).

    Raises:
        StorageError: it cannot be read.

    >>> without_password("postgresql://me:secret@host/studies")
    'postgresql://me@host/studies'
    """
    parsed = _parsed(url)
    return URL.create(
        parsed.drivername, parsed.username, None, parsed.host, parsed.port, parsed.database, parsed.query
    ).render_as_string()


def _parsed(url: str) -> URL:
    try:
        return make_url(url)
    except (ArgumentError, ValueError):
        raise StorageError(
            f"cannot read storage URL {url!r}: write it as postgresql://USER@HOST/DATABASE, mysql://USER@HOST/DATABASE "
            "or sqlite:///FILE"
        ) from None


def _open(url: str, reads: bool = False) -> RDBStorage:
    """Connect; what is only read is not created."""
    parsed = _parsed(url)
    if reads and parsed.get_backend_name() == "sqlite" and not Path(parsed.database or "").is_file():
        raise StorageError(f"there is no database {parsed.database!r}")
    arguments: dict[str, Any] = {"pool_pre_ping": True}
    if package := _DRIVERS.get(parsed.get_backend_name()):
        if "+" not in parsed.drivername:
            parsed = parsed.set(drivername=f"{parsed.drivername}+{package}")
        arguments["connect_args"] = {"connect_timeout": _CONNECT_SECONDS}
    return RDBStorage(parsed.render_as_string(hide_password=False), arguments, skip_table_creation=reads)


@contextmanager
def _explained(url: str) -> Iterator[None]:
    """Raise what Optuna and SQLAlchemy raise in a ``with`` block as a line that a user can act on."""
    try:
        yield
    except ImportError:
        kind = _parsed(url).get_backend_name()
        raise StorageError(f"{shown_url(url)} needs a package: pip install 'autoq[{kind}]'") from None
    except (StorageInternalError, SQLAlchemyError, RuntimeError, ValueError) as error:
        if isinstance(error, StorageError):
            raise
        raise StorageError(
            f"cannot use storage {shown_url(url)}: {_reason(error)}; check host, name and password"
        ) from error


def _reason(error: BaseException) -> str:
    """Return the first line of what the database said."""
    while error.__cause__ is not None:
        error = error.__cause__
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def _key(trial: FrozenTrial) -> Key:
    """Tell trials of a study apart: a recipe is stored once, and once more where it was scored later."""
    attributes = trial.user_attrs
    return attributes["recipe_hash"], trial.state.name, "score" in attributes
