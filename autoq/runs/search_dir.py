"""A run's directory: what a search leaves behind, and what a later one resumes from."""

from __future__ import annotations

import json
import os
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

import autoq
from autoq.cost import model_cost, uniform_bops
from autoq.errors import RunDirectoryError
from autoq.files import check_writable, make_writable, write_text
from autoq.recipe import ModelReference, ScoreRecord
from autoq.runs.search_settings import SearchSettings
from autoq.runs.session import Session

STUDY_NAME = "autoq"
_RECONSTRUCTING = {"reconstruct", "reconstruct_iterations", "reconstruct_images"}
_MAY_DIFFER = {"trials", "time_limit_seconds", "device", "eval_data", "eval_recipes", *_RECONSTRUCTING}
"""Settings that a resumed run may change without making earlier trials worthless."""


class SiteEntry(BaseModel):
    """A site as the report needs it."""

    model_config = ConfigDict(frozen=True)

    name: str
    op: str
    macs: int
    operands: tuple[str, ...]


class MeasuredAccuracy(BaseModel):
    """Accuracy on the labelled images, in percent."""

    model_config = ConfigDict(frozen=True)

    top1_percent: float
    top5_percent: float
    images: int


class ReconstructedEntry(BaseModel):
    """A recipe that was reconstructed after the search.

    Attributes:
        recipe: path of the reconstructed recipe, relative to the run directory.
        iterations: training steps of each block.
        images: that it learned from.
        score: discrepancy on the calibration images, and accuracy on the labelled ones.
    """

    model_config = ConfigDict(frozen=True)

    recipe: str
    iterations: int
    images: int
    score: ScoreRecord

    def without_accuracy(self) -> ReconstructedEntry:
        """The same before it was measured on labelled images."""
        measured = ("top1_percent", "top5_percent", "labelled_images")
        return self.model_copy(update={"score": self.score.model_copy(update=dict.fromkeys(measured))})


class RunRecord(BaseModel):
    """``run.json``: settings, versions, fingerprints, and what is measured once.

    Attributes:
        settings: what was asked for.
        versions: of autoq and the libraries that matter.
        model: name and weights.
        fingerprints: SHA-256 of the calibration images and the search space, fingerprint of the bank.
        budget_bops: the budget in BOPs per image.
        uniform_8_8_bops: cost of uniform 8/8, the reference of the hypervolume.
        full_precision_bops: cost at 32 bits.
        macs: per image.
        sites: all sites.
        images: number of calibration images.
        state: how far the search came; what is reconstructed after it does not count.
        seconds: wall time, earlier runs included.
        full_precision: accuracy before quantization.
        accuracy: of measured recipes, by id.
        reconstructed: recipes that were reconstructed, by the id of the trial that each was made from.
    """

    schema_version: Literal[1] = 1
    settings: SearchSettings
    versions: dict[str, str]
    model: ModelReference
    fingerprints: dict[str, str]
    budget_bops: int
    uniform_8_8_bops: int
    full_precision_bops: int
    macs: int
    sites: tuple[SiteEntry, ...]
    images: int
    state: Literal["running", "interrupted", "finished"] = "running"
    seconds: float = 0.0
    full_precision: MeasuredAccuracy | None = None
    accuracy: dict[str, MeasuredAccuracy] = {}
    reconstructed: dict[str, ReconstructedEntry] = {}

    def is_search_for(self, settings: SearchSettings) -> bool:
        """Whether this is a finished search with the same settings, where it runs and reconstruction aside."""
        apart = _RECONSTRUCTING | {"device"}
        return self.state == "finished" and self.settings.model_dump(exclude=apart) == settings.model_dump(
            exclude=apart
        )

    def uniform_bops(self, weight_bits: int, activation_bits: int) -> int:
        """Cost with every weight at one width and every activation at another."""
        return sum(
            site.macs * activation_bits * (weight_bits if "weight" in site.operands else activation_bits)
            for site in self.sites
        )


def new_record(
    settings: SearchSettings,
    session: Session,
    budget_bops: int,
    images: int,
    fingerprints: dict[str, str],
    earlier: RunRecord | None,
) -> RunRecord:
    """The record of a run that starts or goes on; what was measured on the same labelled images is taken over."""
    sites = session.traced.sites
    same_labels = earlier is not None and earlier.settings.labelled_data == settings.labelled_data
    measured = earlier if same_labels else None
    reconstructed = {} if earlier is None else earlier.reconstructed
    return RunRecord(
        settings=settings,
        versions=_versions(),
        model=session.reference,
        fingerprints=fingerprints,
        budget_bops=budget_bops,
        uniform_8_8_bops=uniform_bops(sites, 8, 8),
        full_precision_bops=model_cost(sites, {}).bops,
        macs=session.traced.macs,
        sites=tuple(
            SiteEntry(name=site.name, op=site.op, macs=site.macs, operands=tuple(o.name for o in site.operands))
            for site in sites
        ),
        images=images,
        full_precision=measured.full_precision if measured is not None else None,
        accuracy=measured.accuracy if measured is not None else {},
        reconstructed={
            trial: entry if same_labels else entry.without_accuracy() for trial, entry in reconstructed.items()
        },
    )


def _versions() -> dict[str, str]:
    libraries = {name: version(name) for name in ("torch", "timm", "optuna", "numpy")}
    return {"autoq": autoq.__version__, "python": platform.python_version(), **libraries}


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
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"])
            raise RunDirectoryError(
                f"{os.fspath(self._record)!r} is no record of a run: {where} {first['msg']}"
            ) from error

    def require(self) -> RunRecord:
        """The record.

        Raises:
            RunDirectoryError: there is none, or it cannot be read.
        """
        record = self.load()
        if record is None:
            raise RunDirectoryError(f"{os.fspath(self.path)!r} is no run directory: it has no run.json")
        return record

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
