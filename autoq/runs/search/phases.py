"""The phases of a search: calibration, sensitivities, the study, accuracy, finishing and reconstruction."""

from __future__ import annotations

import logging
import os
import time
from dataclasses import dataclass, field, replace
from typing import Any

from autoq.calibration import Bank
from autoq.cost import CostModel
from autoq.errors import InputError
from autoq.events import FirstRecipe, PhaseAdvanced, PhaseStarted, Progress
from autoq.optimization.database import StudyDatabase
from autoq.optimization.executors import EXECUTORS
from autoq.optimization.executors._base import BaseExecutor
from autoq.optimization.executors.local import LocalExecutor
from autoq.optimization.objective import JointObjective
from autoq.optimization.space import Assignment
from autoq.optimization.space.uniform_points import UniformPoint, has_schemes, uniform_points
from autoq.optimization.storage import TrialStore, load_trials
from autoq.optimization.trials import EvaluatedTrial, evaluated_trials, shown_trials
from autoq.runs.images import CalibrationImages
from autoq.runs.opening import RunInputs, solve_bank
from autoq.runs.search.accuracy import AccuracyMeter, trials_to_measure
from autoq.runs.search.baselines import measure_baselines
from autoq.runs.search.directory import STUDY_NAME, SearchDirectory
from autoq.runs.search.improve_front import chosen_trials, improve_chosen
from autoq.runs.search.recipes import RecipeWriter
from autoq.runs.search.record import RunRecord
from autoq.runs.search.study import SearchStudy
from autoq.runs.search.worker import executor_of_workers
from autoq.runs.sensitivity import measure_into, options_of_space
from autoq.runs.session import Session
from autoq.scoring import Evaluator, choose_batch_size
from autoq.scoring.evaluator import CACHE_BYTES
from autoq.scoring.threads import fastest_threads
from autoq.sensitivity.proxies import FISHER, PROXIES
from autoq.sensitivity.table import SensitivityTable
from autoq.units import format_seconds

_logger = logging.getLogger(__name__)


@dataclass
class SearchRun:
    """One search over what has been opened for it.

    Attributes:
        inputs: model, space and images.
        loaded: the model as it was loaded, before anything was folded into its weights; its task fitted.
        bank: of the model.
        directory: of the run, held.
        progress: told what happens.
        costs: of recipes.
        writer: of recipes.
        record: of the run, as it is written.
        is_searched: whether an earlier run has finished the search.
        started: ``time.monotonic()`` when this run began.
        seconds_before: what earlier runs took.
        database: that trials are copied to, or None.
        trials: all completed ones, once :meth:`search` is done.
        trials_before: that earlier runs have left.
    """

    inputs: RunInputs
    loaded: Session
    bank: Bank
    directory: SearchDirectory
    progress: Progress
    costs: CostModel
    writer: RecipeWriter
    record: RunRecord
    is_searched: bool
    started: float
    seconds_before: float
    database: StudyDatabase | None = None
    trials: list[EvaluatedTrial] = field(default_factory=list)
    trials_before: int = 0

    @property
    def deadline(self) -> float | None:
        """The ``time.monotonic()`` by which all is to be done, finishing and reconstruction aside."""
        seconds = self.record.settings.time_limit_seconds
        return None if seconds is None else self.started + seconds

    def last_proposal(self, reserved: float) -> float | None:
        """Return the ``time.monotonic()`` after which nothing new is proposed.

        Args:
            reserved: seconds of what follows; of a time limit at most half of what is left.
        """
        if self.is_searched:
            return self.started
        if self.deadline is None:
            return None
        return self.deadline - min(reserved, max(0.0, self.deadline - time.monotonic()) / 2)

    def search(self) -> None:
        """Calibrate, measure options alone, evaluate recipes, and measure the accuracy of those that are shown.

        What was held in memory for it is given back.
        """
        session, images = self.inputs.session, self.inputs.images.tensor
        few = images[: choose_batch_size(session.traced)]
        store = TrialStore.open(self.directory.study, STUDY_NAME, copy=self.database, objectives=self.record.objectives)
        self.trials_before = len(store.load_trials())
        with fastest_threads(lambda: session.model.run(few), session.device) as threads:
            solve_bank(self.bank, options_of_space(self.inputs.space), self.directory.bank, self.progress)
            self.writer.trial_recipes.save(self.directory.space)
            self.bank.save(self.directory.bank)  # it answers for options with fitted bases spelled out too
            table = self._sensitivities(self._proxy_of_options()) if self.record.settings.needs_sensitivities else None
            evaluator = self._evaluator(self.inputs.scoring)
            study = self._study(store, table, evaluator)
            self._evaluate_first(study)
            self._measure_baselines()
            labelled = self.inputs.labelled
            meter = None if labelled is None else AccuracyMeter(evaluator, labelled, self.record.accuracy_seconds)
            self._run_study(study, meter, threads)
            self.trials = evaluated_trials(store.load_trials(), self.record.settings.proxy, self.record.limits.chosen)
            self._score_on_calibration()
            try:
                self._measure_accuracy(meter)
            except InputError as error:  # hours of search are not lost for an image
                _logger.warning("accuracy is not measured any further: %s", error)
        self.writer.write_all(self.trials, self.record)
        self.keep(state="finished", seconds=self._seconds())

    def _measure_baselines(self) -> None:
        """Calibrate and measure the published methods that are compared with; each is kept at once."""
        inputs = replace(self.inputs, session=self.loaded)
        keep = lambda found: self.keep(baselines=dict(found))  # noqa: E731
        deadline = None if self.deadline is None else (self.started + self.deadline) / 2
        measure_baselines(inputs, self.costs, self.directory, self.record, self.progress, keep, deadline)

    def _study(self, store: TrialStore, table: SensitivityTable | None, evaluator: Evaluator) -> SearchStudy:
        return SearchStudy(
            space=self.inputs.space,
            costs=self.costs,
            settings=self.record.settings,
            limits=self.record.limits,
            store=store,
            table=table,
            points=self._uniform_points(table),
            joint=JointObjective(evaluator, self.record.settings.proxy),
        )

    def _evaluate_first(self, study: SearchStudy) -> None:
        """Evaluate the exact allocation before anything else, whatever the time limit, and write its recipe."""
        if self.is_searched or (frozen := study.evaluate_allocation()) is None:
            return
        self.writer.keep_if_on_front(frozen)
        for trial in evaluated_trials([frozen], self.record.settings.proxy, self.record.limits.chosen):
            loss, path = PROXIES[self.record.settings.proxy].loss, os.fspath(self.directory.recipe_path(trial.id))
            told = f"{loss.title} {loss.format(trial.loss)}"
            self.progress(FirstRecipe(told, trial.cost_kind.format(trial.chosen_cost), path))

    def _run_study(self, study: SearchStudy, meter: AccuracyMeter | None, threads: int) -> None:
        """Evaluate recipes that the sampler proposes, and score the front."""
        settings = self.record.settings
        reserved = None if meter is None else self._seconds_of_accuracy(study.points, meter)
        self.progress(PhaseStarted("search", settings.trials, _resuming(self.trials_before, settings.trials)))
        last = self.last_proposal(reserved or 0.0)
        trials = 0 if self.is_searched else settings.trials
        with self._executor(study, threads) as executor:
            study.run(executor, trials, last, self.progress, self.writer.keep_if_on_front, reserved)

    def _executor(self, study: SearchStudy, threads: int) -> BaseExecutor:
        """Return what evaluates recipes; what takes no evaluation, or is over, is done here."""
        settings = self.record.settings
        rebuilds = EXECUTORS[settings.executor_name].rebuilds
        if self.is_searched or PROXIES[settings.proxy].is_additive or not rebuilds:
            return LocalExecutor(study.objective)
        return executor_of_workers(settings, self.directory, self.inputs, self.bank, study.objective, threads)

    def _proxy_of_options(self) -> str:
        """Name the loss by which options are measured alone."""
        settings = self.record.settings
        return settings.proxy if PROXIES[settings.proxy].is_additive else settings.sensitivity

    def _uniform_points(self, table: SensitivityTable | None) -> list[UniformPoint]:
        """List the uniform points in the schemes that lose least alone, whether or not the sampler asks for that."""
        space, bits = self.inputs.space, self.record.baseline_bits
        if table is None and has_schemes(space):
            proxy = self._proxy_of_options()
            table = self._sensitivities(proxy if PROXIES[proxy].is_additive else FISHER)
        return uniform_points(space, None if table is None else table.loss, [bits] if bits else [])

    def _sensitivities(self, proxy: str) -> SensitivityTable:
        """Measure the losses of all options alone on the calibration images, once a run."""
        return measure_into(
            self.directory.sensitivities,
            options_of_space(self.inputs.space),
            evaluator=self._evaluator(self.inputs.images),
            bank=self.bank,
            images=self.inputs.images.tensor,
            proxy=proxy,
            progress=self.progress,
        )

    def _evaluator(self, images: CalibrationImages, cache_bytes: int = CACHE_BYTES) -> Evaluator:
        """Return an evaluator on the images that score, or on those that calibrated."""
        session = self.inputs.session
        return Evaluator(session.model, self.bank, images.tensor, cache_bytes=cache_bytes, task=session.task)

    def _score_on_calibration(self) -> None:
        """Score the front and the uniform points on the images that calibrated too, if these are others."""
        if self.inputs.held_out is None:
            return
        front, uniform = shown_trials(self.trials, self.record.limits)
        known, shown = dict(self.record.calibration_kl_nats), {trial.id: trial for trial in [*front, *uniform]}
        evaluator = self._evaluator(self.inputs.images, cache_bytes=0)
        self.progress(PhaseStarted("score", len(shown), "on the calibration images"))
        for done, (name, trial) in enumerate(shown.items(), start=1):
            if name not in known:
                known[name] = evaluator.evaluate(self.inputs.space.sites_for(trial.assignment)).kl_nats
            self.progress(PhaseAdvanced("score", done))
        self.keep(calibration_kl_nats=known)

    def _seconds_of_accuracy(self, points: list[UniformPoint], meter: AccuracyMeter) -> float:
        """Measure full precision and a uniform point ahead, and return how long all others will take at most."""
        settings = self.record.settings
        if self.record.full_precision is None:
            self.keep(full_precision=meter.measure_full_precision())
        plain = [point for point in points if " " not in point[0]] or points
        label, assignment = plain[-1]
        self._keep_accuracy(label.replace(" ", "-"), assignment, meter)
        most = settings.eval_recipes + len(plain) - 1 + (2 if settings.improves else 0)
        return most * (self.record.accuracy_seconds or 0.0)

    def _measure_accuracy(self, meter: AccuracyMeter | None) -> None:
        """Measure the front or a part of it, and the uniform points; each is kept at once.

        What the result is told by comes first, and is measured in any case; the rest as far as the time limit allows.
        """
        chosen, needed = trials_to_measure(self.trials, self.record)
        missing = sum(trial.id not in self.record.accuracy for trial in chosen)
        seconds = None if meter is None else meter.seconds
        detail = "" if not seconds or not missing else f"about {format_seconds(missing * seconds)}"
        self.progress(PhaseStarted("front", len(chosen), detail))
        if meter is None:
            return
        left_out = 0
        for done, trial in enumerate(chosen, start=1):
            if trial.id in self.record.accuracy or done <= needed or meter.fits(self.deadline):
                self._keep_accuracy(trial.id, trial.assignment, meter)
            else:
                left_out += 1
            self.progress(PhaseAdvanced("front", done))
        self.keep(accuracy_left_out=left_out)

    def _keep_accuracy(self, name: str, assignment: Assignment, meter: AccuracyMeter) -> None:
        """Measure the recipe of a trial, if that was not done before."""
        if name not in self.record.accuracy:
            measured = meter.measure(self.inputs.space.sites_for(assignment))
            self.keep(accuracy={**self.record.accuracy, name: measured}, accuracy_seconds=meter.seconds)

    def improve(self) -> None:
        """Finish and reconstruct the recipes that a person would pick; each is kept at once."""
        front, _ = shown_trials(self.trials, self.record.limits)
        improve_chosen(
            self.inputs,
            self.bank,
            self.directory,
            self.record,
            chosen_trials(front, self.record.limits),
            self.progress,
            lambda kind, found: self.keep(**{kind: dict(found)}),
        )

    def keep(self, **changes: Any) -> None:
        """Change the run's record, and write it."""
        self.record = self.record.model_copy(update=changes)
        self.directory.save(self.record)

    def leave(self) -> None:
        """Save what is solved, let the database catch up, and say how far the search came."""
        if self.database is not None and self.directory.study.exists():
            self.database.close(load_trials(self.directory.study, STUDY_NAME))
        self.bank.save(self.directory.bank)
        state = "finished" if self.record.state == "finished" else "interrupted"
        self.keep(state=state, seconds=self._seconds())

    def _seconds(self) -> float:
        return self.seconds_before + time.monotonic() - self.started


def _resuming(found: int, wanted: int) -> str:
    """Say how far an earlier run came."""
    if not found:
        return ""
    return f"resuming after {found} trials" if found < wanted else f"{found} trials are there: more with --trials"
