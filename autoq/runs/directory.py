"""The life of a run's directory: which run it belongs to, who may go on in it, and when it is refused.

Every kind of run keeps a record in its directory: one JSON file that says what the run depends on. The same run goes on
in it; any other is refused with what differs. Nothing is made before all input is known to be good, and one process at
a time works in a directory.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Final, Generic, TypeVar

from pydantic import BaseModel, TypeAdapter, ValidationError

from autoq.errors import RunDirectoryError
from autoq.files import check_writable, make_writable, write_text
from autoq.identity import describe_changes
from autoq.runs.lock import hold_directory
from autoq.runs.settings import CalibrationChoices
from autoq.validation import check_decodable, first_complaint

RecordT = TypeVar("RecordT")
KINDS: Final = {
    "run.json": "a search",
    "sensitivity.json": "sensitivities",
    "proxy_check.json": "a check of proxies",
    "finishing.json": "a finished recipe",
    "reconstruction.json": "a reconstruction",
}
"""What a directory holds, by the name of the record that shows it; one directory is of one kind."""


class BaseRunDirectory(Generic[RecordT]):
    """A directory that belongs to one run; kinds of runs say what they keep there.

    Attributes:
        path: the directory; it need not exist.
        holds: what a directory of this kind holds, for messages: ``a search``.
        record_name: name of the file with the record.
        record_type: what the record is parsed as: a pydantic model, or a type of plain JSON.
        foreign: what must not lie in a directory of this kind, by the name of a file that shows it.
        orphans: the same where the record is missing: files of this kind whose origin nobody knows.
    """

    holds: ClassVar[str]
    record_name: ClassVar[str]
    record_type: ClassVar[Any] = dict[str, Any]
    foreign: ClassVar[Mapping[str, str]] = KINDS
    orphans: ClassVar[Mapping[str, str]] = {}

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Name a directory; nothing is created."""
        self.path = Path(path)

    @property
    def record_path(self) -> Path:
        """The file with the record."""
        return self.path / self.record_name

    @cached_property
    def _adapter(self) -> TypeAdapter[RecordT]:
        return TypeAdapter(self.record_type)

    def refuse_unwritable(self) -> None:
        """Refuse where :meth:`held` would fail; creates nothing.

        Raises:
            RunDirectoryError: the directory, or the nearest parent that exists, is a file or is not writable.
        """
        check_decodable(self.path, "run directory", RunDirectoryError)
        self._refuse_where_fails(check_writable)

    def refuse_foreign(self) -> None:
        """Refuse a directory that holds something of another kind, or of unknown origin; creates nothing.

        Raises:
            RunDirectoryError: names what it holds.
        """
        refused = {name: what for name, what in self.foreign.items() if name != self.record_name}
        if not self.record_path.exists():
            refused |= self.orphans
        for name, what in refused.items():
            if (self.path / name).exists():
                raise RunDirectoryError(f"{os.fspath(self.path)!r} holds {what}; choose another --out")

    def refuse_changes(self, old: Mapping[str, Any], new: Mapping[str, Any]) -> None:
        """Refuse to go on where what the run depends on has changed.

        Args:
            old: what the record says; plain JSON.
            new: what is wanted; keys that it lacks are not compared.

        Raises:
            RunDirectoryError: names what has changed.
        """
        if changes := describe_changes(old, new):
            raise RunDirectoryError(
                f"{os.fspath(self.path)!r} holds {self.holds} with another {changes}; choose another --out or delete it"
            )

    def refuse_other(self, identity: Mapping[str, Any]) -> RecordT | None:
        """Return the record to go on from, or None for a fresh start; creates nothing.

        Args:
            identity: what the run depends on, as in :meth:`identity_of`.

        Raises:
            RunDirectoryError: the directory belongs to another run, or holds something else, or is damaged.
        """
        self.refuse_foreign()
        record = self.load()
        if record is not None:
            self.refuse_changes(self.identity_of(record), identity)
        return record

    @contextmanager
    def opened(self, identity: Mapping[str, Any]) -> Iterator[Callable[[], RecordT | None]]:
        """Open the directory for a run, in two steps, so that wrong input leaves nothing behind.

        What can be refused without loading anything is refused at once, a directory in use by another process included.
        The function that is yielded is called once all input is known to be good: it makes the directory, holds it to
        the end of the ``with`` block, and returns the record to go on from, as its last holder has left it.

        Args:
            identity: what the run depends on, as far as it is known; as in :meth:`identity_of`.

        Raises:
            RunDirectoryError: the directory cannot be used by this run.
        """
        is_new = self.refuse_other(identity) is None
        self.refuse_unwritable()
        with ExitStack() as stack:
            if not is_new:
                stack.enter_context(self.held())

            def enter() -> RecordT | None:
                if is_new:
                    stack.enter_context(self.held())
                return self.refuse_other(identity)

            yield enter

    def identity_of(self, record: RecordT) -> Mapping[str, Any]:
        """Return what the run with this record depends on, as plain JSON."""
        return self._adapter.dump_python(record, mode="json")  # type: ignore[no-any-return]

    def create(self) -> None:
        """Make the directory if need be, and check that it can be written to.

        Raises:
            RunDirectoryError: it is a file, or is not writable.
        """
        self._refuse_where_fails(make_writable)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Make the directory if need be, and hold it for a ``with`` block.

        Raises:
            RunDirectoryError: another process holds it, or it cannot be written.
        """
        self.create()
        with hold_directory(self.path):
            yield

    def load(self) -> RecordT | None:
        """Return the record, or None in a directory that no run has used.

        Raises:
            RunDirectoryError: the record cannot be read.
        """
        path = self.record_path
        try:
            return self._adapter.validate_json(path.read_bytes())
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise RunDirectoryError(f"cannot read {os.fspath(path)!r}: {error.strerror}") from error
        except ValidationError as error:
            raise RunDirectoryError(
                f"{os.fspath(path)!r} is damaged: {first_complaint(error, self.record_type)}; "
                "delete it and what lies beside it, or choose another --out"
            ) from error

    def require(self) -> RecordT:
        """Return the record.

        Raises:
            RunDirectoryError: there is none, or it cannot be read.
        """
        record = self.load()
        if record is None:
            raise RunDirectoryError(f"{os.fspath(self.path)!r} is no run directory: it has no {self.record_name}")
        return record

    def save(self, record: RecordT) -> None:
        """Write the record.

        Raises:
            OSError: it cannot be written; what was there before is still there.
        """
        write_text(self.record_path, json.dumps(self._adapter.dump_python(record, mode="json"), indent=1) + "\n")

    def _refuse_where_fails(self, act: Callable[[Path], None]) -> None:
        try:
            act(self.path)
        except OSError as error:
            raise RunDirectoryError(
                f"cannot write to directory {os.fspath(self.path)!r}: {error.strerror}; choose another --out"
            ) from error


class BaseSettingsRecord(BaseModel):
    """The record of a run that follows from settings and from what they name.

    Attributes:
        settings: what was asked for.
        fingerprints: of what the settings name: images, search space, bank.
    """

    settings: CalibrationChoices
    fingerprints: dict[str, str]


SettingsRecordT = TypeVar("SettingsRecordT", bound=BaseSettingsRecord)


class BaseSettingsDirectory(BaseRunDirectory[SettingsRecordT], Generic[SettingsRecordT]):
    """A directory that belongs to the run with certain settings, on certain images, weights and space.

    Attributes:
        may_differ: settings that may change without making what there is worthless.
    """

    may_differ: ClassVar[frozenset[str]]
    orphans: ClassVar[Mapping[str, str]] = {"recipe.json": "a quantized model"}

    @property
    def bank(self) -> Path:
        """The directory of the bank."""
        return self.path / "bank"

    def identity_of(self, record: SettingsRecordT) -> Mapping[str, Any]:
        """Return the settings that may not change."""
        return self.identity_of_settings(record.settings)

    def identity_of_settings(self, settings: CalibrationChoices) -> Mapping[str, Any]:
        """Return the settings that may not change."""
        return settings.model_dump(mode="json", exclude=set(self.may_differ))

    def fingerprints_of(self, record: SettingsRecordT) -> Mapping[str, str]:
        """Return the fingerprints of what the settings of an earlier run named."""
        return record.fingerprints

    def refuse_changed(self, record: SettingsRecordT | None, fingerprints: Mapping[str, str]) -> None:
        """Refuse to go on where images, weights or space have changed under their names.

        Args:
            record: of the earlier run, if there is one.
            fingerprints: of what is there now.

        Raises:
            RunDirectoryError: names what has changed.
        """
        known = {} if record is None else self.fingerprints_of(record)
        self.refuse_changes(known, {name: value for name, value in fingerprints.items() if name in known})
