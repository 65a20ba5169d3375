"""A directory with something measured, what it depends on beside it: gone on with by the same settings only."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from pydantic import BaseModel

from autoq.errors import RunDirectoryError
from autoq.files import check_writable, make_writable, write_text

SettingsT = TypeVar("SettingsT", bound=BaseModel)


@dataclass(frozen=True)
class MeasurementDirectory(Generic[SettingsT]):
    """One measurement, which a killed one can be resumed from.

    Attributes:
        path: the directory; it need not exist.
        kind: of the settings.
        what: is measured, for messages: ``sensitivities``.
        record: name of the file that says what the measurement depends on.
        rows: name of the file with what is measured so far.
        may_differ: settings that a resumed measurement may change without making what there is worthless.
    """

    path: Path
    kind: type[SettingsT]
    what: str
    record: str
    rows: str
    may_differ: frozenset[str]

    def refuse_unusable(self, settings: SettingsT) -> None:
        """Refuse a directory that cannot be written, or holds a search or another measurement; creates nothing.

        Raises:
            RunDirectoryError: it is such a directory, or its files are damaged.
        """
        self._refuse_unwritable(check_writable)
        if (self.path / "run.json").exists():
            raise RunDirectoryError(f"{os.fspath(self.path)!r} holds a search; choose another --out")
        if (known := self._load()) is not None:
            old, new = (each.model_dump(exclude=set(self.may_differ)) for each in (known[0], settings))
            self._refuse_differing(old, new)

    def create(self) -> None:
        """Make the directory if need be.

        Raises:
            RunDirectoryError: that is impossible.
        """
        self._refuse_unwritable(make_writable)

    def keep_record(self, settings: SettingsT, fingerprints: Mapping[str, str], **results: Any) -> None:
        """Write what the measurement depends on, once it is known to be what an earlier part depended on.

        Args:
            settings: the measurement's.
            fingerprints: of what the settings name.
            results: whatever else the file is to say, as JSON values.

        Raises:
            RunDirectoryError: an earlier part depended on something else.
        """
        if (known := self._load()) is not None:
            self._refuse_differing(known[1], dict(fingerprints))
        document = {"settings": settings.model_dump(mode="json"), "fingerprints": dict(fingerprints), **results}
        write_text(self.path / self.record, json.dumps(document, indent=1) + "\n")

    def _refuse_unwritable(self, check: Callable[[Path], None]) -> None:
        try:
            check(self.path)
        except OSError as error:
            raise RunDirectoryError(
                f"cannot write to directory {os.fspath(self.path)!r}: {error.strerror}; choose another --out"
            ) from error

    def _load(self) -> tuple[SettingsT, dict[str, str]] | None:
        path = self.path / self.record
        try:
            document = json.loads(path.read_text(encoding="utf-8"))
            return self.kind.model_validate(document["settings"]), dict(document["fingerprints"])
        except (FileNotFoundError, NotADirectoryError):
            if (self.path / self.rows).exists():  # of who knows what
                raise RunDirectoryError(
                    f"{os.fspath(self.path / self.rows)!r} has no {self.record} beside it; delete it or choose another "
                    "--out"
                ) from None
            return None
        except OSError as error:
            raise RunDirectoryError(f"cannot read {os.fspath(path)!r}: {error.strerror}") from error
        except (ValueError, KeyError, TypeError) as error:  # pydantic's, json's and unicode's are ValueErrors
            raise RunDirectoryError(f"{os.fspath(path)!r} is damaged; delete it and {self.rows}") from error

    def _refuse_differing(self, old: Mapping[str, Any], new: Mapping[str, Any]) -> None:
        if differing := [key for key in new if old.get(key) != new[key]]:
            changes = ", ".join(f"{key} (was {old.get(key)!r}, is {new[key]!r})" for key in differing)
            raise RunDirectoryError(
                f"{os.fspath(self.path)!r} holds {self.what} with another {changes}; choose another --out or delete it"
            )
