"""The recipes of a search in its directory: those that nothing beats, and the uniform ones."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

from optuna.trial import FrozenTrial

from autoq.calibration import Bank
from autoq.cost import Limits
from autoq.optimization.space import ResolvedSpace
from autoq.optimization.trials import UNIFORM, EvaluatedTrial, evaluated_trials, shown_trials
from autoq.recipe import CalibrationReference, Recipe, SearchReference
from autoq.runs.search.directory import SearchDirectory
from autoq.runs.search.record import RunRecord
from autoq.runs.search.trial_recipes import TrialRecipes
from autoq.runs.session import Session
from autoq.sensitivity.proxies import KL
from autoq.tasks import task_to_record


@dataclass
class RecipeWriter:
    """Writes the recipes of trials.

    Attributes:
        directory: of the search.
        session: its model.
        bank: of the session.
        space: from which trials are made.
        calibration: how recipes name their calibration.
        reference: how recipes name the search.
        limits: the budgets of the search.
        proxy: what the search minimises.
        kept: trials whose recipes were written by :meth:`keep_if_on_front`.
    """

    directory: SearchDirectory
    session: Session
    bank: Bank
    space: ResolvedSpace
    calibration: CalibrationReference
    reference: SearchReference
    limits: Limits
    proxy: str = KL
    kept: list[EvaluatedTrial] = field(default_factory=list)

    def keep_if_on_front(self, frozen: FrozenTrial) -> None:
        """Write the recipe of a trial that nothing beats so far, so that a killed run can be picked from."""
        for trial in evaluated_trials([frozen], self.proxy, self.limits.chosen):
            front, _ = shown_trials([*self.kept, trial], self.limits)
            if trial.origin == UNIFORM or trial in front:
                self.kept = [*(t for t in self.kept if t.origin == UNIFORM or t in front), trial]
                self.write(trial)

    def write_all(self, trials: list[EvaluatedTrial], record: RunRecord) -> None:
        """Write the recipes of the front and the uniform points, and remove those that were beaten since.

        Args:
            trials: all completed ones.
            record: of the run; has their accuracy, and their discrepancy on the images that calibrated.
        """
        front, uniform = shown_trials(trials, self.limits)
        shown = {trial.id: trial for trial in [*front, *uniform]}
        for trial in shown.values():
            self.write(trial, record)
        wanted = {self.directory.recipe_path(trial) for trial in shown}
        for path in self.directory.recipes.glob("*.json"):
            if path not in wanted:
                path.unlink()

    def write(self, trial: EvaluatedTrial, record: RunRecord | None = None) -> None:
        """Write a trial's recipe, fitted bases spelled out, with what the run's record has of it."""
        self.trial_recipes.recipe(trial, record).save(self.directory.recipe_path(trial.id))

    @cached_property
    def trial_recipes(self) -> TrialRecipes:
        """What recipes are made from, once the bank has solved all options of the space."""
        shared = Recipe(
            model=self.session.reference,
            sites={},
            rotated=dict(self.session.rotated),
            centred=tuple(self.session.folded.centres),
            reparameterized=dict(self.session.reparameterized),
            search=self.reference,
            calibration=self.calibration,
            task=task_to_record(self.session.task),
        )
        return TrialRecipes.of(shared, self.space, self.bank)
