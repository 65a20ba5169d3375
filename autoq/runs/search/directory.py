"""The directory of a search: what it leaves behind, and what a later one goes on from."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

from autoq.optimization.storage import load_trials
from autoq.optimization.trials import EvaluatedTrial, evaluated_trials
from autoq.runs.directory import BaseSettingsDirectory
from autoq.runs.search.record import ImprovedKind, RunRecord
from autoq.runs.search.settings import IMPROVEMENT_SETTINGS, PLACE_SETTINGS

STUDY_NAME = "autoq"


class SearchDirectory(BaseSettingsDirectory[RunRecord]):
    """``run.json``, the study, the bank, and the recipes that were found."""

    holds: ClassVar[str] = "a search"
    record_name: ClassVar[str] = "run.json"
    record_type: ClassVar[type[RunRecord]] = RunRecord
    may_differ: ClassVar[frozenset[str]] = (
        IMPROVEMENT_SETTINGS
        | PLACE_SETTINGS
        | {
            "trials",
            "time_limit_seconds",
            "eval_data",
            "eval_recipes",
            "baselines",
        }
    )

    @property
    def study(self) -> Path:
        """The journal with all trials."""
        return self.path / "study.log"

    @property
    def space(self) -> Path:
        """What recipes of trials are made from."""
        return self.path / "space.json"

    @property
    def trace(self) -> Path:
        """The traced model, for workers; there while there may be some."""
        return self.path / "trace.pickle"

    @property
    def recipes(self) -> Path:
        """The folder with a recipe for each trial that is shown."""
        return self.path / "recipes"

    @property
    def sensitivities(self) -> Path:
        """The table of the losses of all options alone."""
        return self.path / "sensitivity.csv"

    @property
    def baselines(self) -> Path:
        """The folder with a directory for each published method that is compared with."""
        return self.path / "baselines"

    def improved(self, kind: ImprovedKind) -> Path:
        """Return the folder with a directory for each recipe that was finished, or reconstructed."""
        return self.path / kind

    def recipe_path(self, trial_id: str) -> Path:
        """Return where the recipe of a trial lies."""
        return self.recipes / f"{trial_id}.json"

    def trials(self) -> list[EvaluatedTrial]:
        """Return the completed trials of the study, which may be in use; none before the first.

        Raises:
            RunDirectoryError: the study or the record is damaged.
        """
        record = self.load()
        if record is None or not self.study.exists():
            return []
        return evaluated_trials(load_trials(self.study, STUDY_NAME), record.settings.proxy, record.limits.chosen)

    def fingerprints_of(self, record: RunRecord) -> Mapping[str, str]:
        """Return the fingerprints of what the settings of an earlier run named, the model's weights included."""
        known = {"weights_sha256": record.model.weights_sha256, **record.fingerprints}
        return {"scoring_sha256": known.get("images_sha256", ""), **known}  # early versions scored on what calibrated

    def create(self) -> None:
        """Make the directory, and the folder for recipes.

        Raises:
            RunDirectoryError: it is a file, or is not writable.
        """
        super().create()
        self.recipes.mkdir(exist_ok=True)
