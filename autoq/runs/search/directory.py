"""A run's directory: what a search leaves behind, and what a later one resumes from."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from autoq.errors import RunDirectoryError
from autoq.files import check_writable, make_writable, write_text
from autoq.recipe import ModelReference
from autoq.runs.search.record import RunRecord
from autoq.runs.search.settings import RECONSTRUCTION_SETTINGS, SearchSettings
from autoq.search.storage import load_trials
from autoq.search.trials import EvaluatedTrial, evaluated_trials
from autoq.validation import first_complaint

STUDY_NAME = "autoq"
_MAY_DIFFER = {"trials", "time_limit_seconds", "device", "eval_data", "eval_recipes", *RECONSTRUCTION_SETTINGS}
"""Settings that a resumed run may change without making earlier trials worthless."""


class RunDirectory:
    """Paths in a run's directory, and its record."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Name a directory; nothing is created."""
        self.path = Path(path)
        self.study = self.path / "study.log"
        self.bank = self.path / "bank"
        self.recipes = self.path / "recipes"
        self.sensitivities = self.path / "sensitivity.csv"
        self.reconstructed = self.path / "reconstructed"
        self._record = self.path / "run.json"

    def refuse_unwritable(self) -> None:
        """Refuse where ``create`` would fail; creates nothing.

        Raises:
            RunDirectoryError: the directory, or the nearest parent that exists, is a file or is not writable.
        """
        try:
            check_writable(self.path)
        except OSError as error:
            raise self._unwritable(error) from error

    def create(self) -> None:
        """Make the directory and check that it can be written to.

        Raises:
            RunDirectoryError: it is a file, or is not writable.
        """
        try:
            make_writable(self.path)
            self.recipes.mkdir(exist_ok=True)
        except OSError as error:
            raise self._unwritable(error) from error

    def _unwritable(self, error: OSError) -> RunDirectoryError:
        return RunDirectoryError(
            f"cannot write to run directory {os.fspath(self.path)!r}: {error.strerror}; choose another --out"
        )

    def recipe_path(self, trial_id: str) -> Path:
        """Where the recipe of a trial lies."""
        return self.recipes / f"{trial_id}.json"

    def load(self) -> RunRecord | None:
        """The record, or None in a directory that no run has used.

        Raises:
            RunDirectoryError: the record cannot be read.
        """
        try:
            text = self._record.read_text(encoding="utf-8")
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise RunDirectoryError(f"cannot read {os.fspath(self._record)!r}: {error.strerror}") from error
        try:
            return RunRecord.model_validate_json(text)
        except ValidationError as error:
            complaint = first_complaint(error, RunRecord)
            raise RunDirectoryError(f"{os.fspath(self._record)!r} is no record of a run: {complaint}") from error

    def require(self) -> RunRecord:
        """The record.

        Raises:
            RunDirectoryError: there is none, or it cannot be read.
        """
        record = self.load()
        if record is None:
            raise RunDirectoryError(f"{os.fspath(self.path)!r} is no run directory: it has no run.json")
        return record

    def trials(self) -> list[EvaluatedTrial]:
        """The completed trials of its study, which may be in use; none before the first."""
        return evaluated_trials(load_trials(self.study, STUDY_NAME)) if self.study.exists() else []

    def save(self, record: RunRecord) -> None:
        """Write the record."""
        write_text(self._record, json.dumps(record.model_dump(mode="json"), indent=1))

    def refuse_other(self, settings: SearchSettings) -> RunRecord | None:
        """The record to resume from, or None for a fresh start.

        Raises:
            RunDirectoryError: a run with other settings was made here.
        """
        record = self.load()
        if record is not None:
            old, new = (s.model_dump(exclude=_MAY_DIFFER) for s in (record.settings, settings))
            self._refuse({key: (old[key], new[key]) for key in new if old[key] != new[key]})
        return record

    def refuse_changed(self, record: RunRecord | None, model: ModelReference, fingerprints: dict[str, str]) -> None:
        """Refuse to resume when the model, the images or the space have changed under their names.

        Raises:
            RunDirectoryError: names what has changed.
        """
        if record is None:
            return
        old: dict[str, Any] = {"weights": record.model.weights_sha256[:12], **record.fingerprints}
        new: dict[str, Any] = {"weights": model.weights_sha256[:12], **fingerprints}
        self._refuse({key: (old[key][:12], new[key][:12]) for key in new if key in old and old[key] != new[key]})

    def _refuse(self, differing: dict[str, tuple[Any, Any]]) -> None:
        if differing:
            changes = ", ".join(f"{key} (was {old!r}, is {new!r})" for key, (old, new) in differing.items())
            raise RunDirectoryError(
                f"{os.fspath(self.path)!r} holds a run with another {changes}; choose another --out or delete it"
            )
