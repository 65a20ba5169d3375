"""The phases of a search: calibration, sensitivities, the study, accuracy, finishing and reconstruction."""

from __future__ import annotations

import logging
from collections.abc import Callable, Container, Mapping
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass, field
from typing import Any

from autoq.calibration import Bank
from autoq.cost import CostModel
from autoq.errors import InputError
from autoq.events import PhaseAdvanced, PhaseStarted, Progress
from autoq.optimization.database import StudyDatabase
from autoq.optimization.executors import EXECUTORS
from autoq.optimization.executors._base import BaseExecutor
from autoq.optimization.executors.chunks import ChunkRunner
from autoq.optimization.executors.local import LocalExecutor
from autoq.optimization.objective import JointObjective
from autoq.optimization.space.uniform_points import UniformPoint
from autoq.optimization.storage import TrialStore, load_trials
from autoq.optimization.trials import EvaluatedTrial, chosen_trials, evaluated_trials, shown_trials
from autoq.recipe import SiteConfig
from autoq.runs.opening import RunInputs, solve_bank
from autoq.runs.search.accuracy import AccuracyMeter, trials_to_measure
from autoq.runs.search.baselines import measure_baselines
from autoq.runs.search.chunks import accuracy_in_chunks, score_in_chunks, solve_in_chunks
from autoq.runs.search.clock import SearchClock
from autoq.runs.search.directory import STUDY_NAME, SearchDirectory
from autoq.runs.search.first_recipe import OptionsAlone, evaluate_first
from autoq.runs.search.improve_front import improve_chosen
from autoq.runs.search.recipes import RecipeWriter
from autoq.runs.search.record import RunRecord
from autoq.runs.search.state import SearchState
from autoq.runs.search.study import SearchStudy
from autoq.runs.search.worker import executor_of_workers
from autoq.runs.sensitivity import options_of_space
from autoq.runs.session import Session
from autoq.scoring import choose_batch_size
from autoq.scoring.threads import fastest_threads
from autoq.sensitivity.proxies import PROXIES
from autoq.sensitivity.table import SensitivityTable
from autoq.units import format_seconds

_PATIENCE_SECONDS = 20.0
"""How long to wait for a worker before calibrating here: what is observed for that, workers observe once more."""
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
        clock: of this run.
        database: that trials are copied to, or None.
        trials: all completed ones, once the search is over.
        trials_before: that earlier runs have left.
        state: what recipes are scored and measured with in this process.
        runner: has what is done in chunks done.
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
    clock: SearchClock
    database: StudyDatabase | None = None
    trials: list[EvaluatedTrial] = field(default_factory=list)
    trials_before: int = 0
    state: SearchState = field(init=False)
    runner: ChunkRunner = field(init=False)

    def __post_init__(self) -> None:
        """Do everything in this process, until there are workers."""
        settings, seconds = self.record.settings, self.record.accuracy_seconds
        self.state = SearchState.of_driver(
            self.inputs, self.loaded, self.bank, self.directory, settings, seconds, self.progress
        )
        self.runner = ChunkRunner(self.state)

    def run(self, on_searched: Callable[[], None] | None = None) -> None:
        """Search, then improve the recipes that a person would pick, if that is asked for.

        Args:
            on_searched: called when the search is over and what may take long begins.
        """
        session, images = self.inputs.session, self.inputs.images.tensor
        few = images[: choose_batch_size(session.traced)]
        with ExitStack() as workers:
            with fastest_threads(lambda: session.model.run(few), session.device) as threads:
                executor = workers.enter_context(self._workers(threads))
                self.runner = ChunkRunner(self.state, executor)
                self._search(executor)
            if self.record.settings.improves:
                if on_searched is not None:
                    on_searched()
                self._improve()

    def _search(self, executor: BaseExecutor | None) -> None:
        """Calibrate, measure options alone, evaluate recipes, and measure the accuracy of those that are shown.

        What was held in memory for it is given back.
        """
        store = TrialStore.open(self.directory.study, STUDY_NAME, copy=self.database, objectives=self.record.objectives)
        self.trials_before = len(store.load_trials())
        self._solve()
        self.writer.trial_recipes.save(self.directory.space)
        self.bank.save(self.directory.bank)  # it answers for options with fitted bases spelled out too
        study = self._study(store, self._measure_options(store))
        self._evaluate_first(study)
        self._measure_baselines()
        self._run_study(study, executor)
        self.trials = evaluated_trials(store.load_trials(), self.record.settings.proxy, self.record.limits.chosen)
        self._score_on_calibration()
        try:
            self._measure_accuracy()
        except InputError as error:  # hours of search are not lost for an image
            _logger.warning("accuracy is not measured any further: %s", error)
        self.writer.write_all(self.trials, self.record)
        self.bank.save(self.directory.bank)
        self.keep(state="finished", seconds=self.clock.seconds)
        self.state.release()

    @property
    def _joint(self) -> JointObjective:
        return JointObjective(self.state.evaluator, self.record.settings.proxy)

    def _workers(self, threads: int) -> AbstractContextManager[BaseExecutor | None]:
        """Start other workers, if the settings ask for them; what is over needs none."""
        settings = self.record.settings
        if self.is_searched or not EXECUTORS[settings.executor_name].rebuilds:
            return nullcontext()
        return executor_of_workers(settings, self.directory, self.inputs, self.loaded, self.bank, self._joint, threads)

    def _solve(self) -> None:
        """Solve all options of the space."""
        options, workers = options_of_space(self.inputs.space), self.record.settings.workers
        elsewhere = solve_in_chunks(self.runner, self.bank, workers) if self.runner.is_shared else None
        if any(option not in self.bank for option in options):
            self.runner.await_worker(_PATIENCE_SECONDS)
        solve_bank(self.bank, options, self.directory.bank, self.progress, elsewhere)

    def _measure_baselines(self) -> None:
        """Calibrate and measure the published methods that are compared with; each is kept at once."""
        latest = self.clock.deadline
        measure_baselines(
            self._labelling,
            self.costs,
            self.record,
            lambda found: self.keep(baselines=found),
            is_labelled=self.inputs.labelled is not None,
            deadline=None if latest is None else (self.clock.started + latest) / 2,
            progress=self.progress,
        )

    def _study(self, store: TrialStore, table: SensitivityTable | None) -> SearchStudy:
        return SearchStudy(
            space=self.inputs.space,
            costs=self.costs,
            settings=self.record.settings,
            limits=self.record.limits,
            store=store,
            table=table,
            points=self._options_alone.uniform_points(table, self.record.baseline_bits),
            joint=self._joint,
        )

    @property
    def _options_alone(self) -> OptionsAlone:
        settings, directory = self.record.settings, self.directory
        return OptionsAlone(self.inputs, self.bank, directory, settings, self.runner, self.progress)

    def _measure_options(self, store: TrialStore) -> SensitivityTable | None:
        """Measure what options lose alone, if that is asked for, and evaluate the first recipe on the way."""
        if not self.record.settings.needs_sensitivities:
            return None
        evaluate = lambda table: self._evaluate_first(self._study(store, table))  # noqa: E731
        return self._options_alone.measure(None if self.is_searched or self.trials_before else evaluate)

    def _evaluate_first(self, study: SearchStudy) -> None:
        """Evaluate the exact allocation, unless the search is over."""
        if not self.is_searched:
            evaluate_first(study, self.writer, self.progress, is_new=not self.trials_before)

    def _run_study(self, study: SearchStudy, executor: BaseExecutor | None) -> None:
        """Evaluate recipes that the sampler proposes, and score the front."""
        settings = self.record.settings
        meter = self.state.meter
        reserved = None if meter is None else self._seconds_of_accuracy(study.points, meter)
        self.progress(PhaseStarted("search", settings.trials, _resuming(self.trials_before, settings.trials)))
        last = self.clock.started if self.is_searched else self.clock.last_proposal(reserved or 0.0)
        trials = 0 if self.is_searched else settings.trials
        if executor is None or PROXIES[settings.proxy].is_additive:  # which takes no evaluation
            executor = LocalExecutor(study.objective)
        study.run(executor, trials, last, self.progress, self.writer.keep_if_on_front, reserved)

    def _score_on_calibration(self) -> None:
        """Score what the result is told by on the images that calibrated too, if these are others."""
        if self.inputs.held_out is None:
            return
        trials, needed = trials_to_measure(self.trials, self.record)
        known, chosen = dict(self.record.calibration_kl_nats), {trial.id: trial for trial in trials[:needed]}
        self.progress(PhaseStarted("score", len(chosen), "on the calibration images"))
        for name, kl_nats in score_in_chunks(self.runner, self._sites_of(chosen, known)):
            known[name] = kl_nats
            self.progress(PhaseAdvanced("score", sum(name in known for name in chosen)))
        self.keep(calibration_kl_nats=known)

    def _seconds_of_accuracy(self, points: list[UniformPoint], meter: AccuracyMeter) -> float:
        """Measure full precision and a uniform point ahead, and return how long all others will take at most."""
        settings = self.record.settings
        if self.record.full_precision is None:
            self.keep(full_precision=meter.measure_full_precision())
        plain = [point for point in points if " " not in point[0]] or points
        label, assignment = plain[-1]
        if (name := label.replace(" ", "-")) not in self.record.accuracy:
            found = meter.measure(self.inputs.space.sites_for(assignment))
            self.keep(accuracy={**self.record.accuracy, name: found}, accuracy_seconds=meter.seconds)
        most = settings.eval_recipes + len(plain) - 1 + (2 if settings.improves else 0)
        return most * (self.record.accuracy_seconds or 0.0) / settings.workers

    def _measure_accuracy(self) -> None:
        """Measure the front or a part of it, and the uniform points; each is kept at once.

        What the result is told by comes first, and is measured in any case; the rest as far as the time limit allows.
        """
        chosen, needed = trials_to_measure(self.trials, self.record)
        recipes = self._sites_of({trial.id: trial for trial in chosen}, self.record.accuracy)
        first = {trial.id for trial in chosen[:needed]}
        seconds, workers = self.record.accuracy_seconds, self.record.settings.workers
        detail = "" if not seconds or not recipes else f"about {format_seconds(len(recipes) * seconds / workers)}"
        self.progress(PhaseStarted("front", len(chosen), detail))
        if self.state.meter is None:
            return
        may_begin = lambda name: name in first or self.clock.fits(self.record.accuracy_seconds or 0.0)  # noqa: E731
        for name, measured, taken in accuracy_in_chunks(self._labelling, recipes, may_begin):
            self.keep(accuracy={**self.record.accuracy, name: measured}, accuracy_seconds=taken)
            self.progress(PhaseAdvanced("front", sum(trial.id in self.record.accuracy for trial in chosen)))
        self.keep(accuracy_left_out=sum(trial.id not in self.record.accuracy for trial in chosen))

    def _sites_of(
        self, trials: Mapping[str, EvaluatedTrial], known: Container[str]
    ) -> dict[str, Mapping[str, SiteConfig]]:
        """Return the recipes of trials by their names, without those that are known."""
        return {
            name: self.inputs.space.sites_for(trial.assignment) for name, trial in trials.items() if name not in known
        }

    def _improve(self) -> None:
        """Finish and reconstruct the recipes that a person would pick; each is kept at once."""
        front, _ = shown_trials(self.trials, self.record.limits)
        improve_chosen(
            self._labelling,
            self.directory,
            self.record,
            chosen_trials(front, self.record.limits),
            lambda kind, found: self.keep(**{kind: dict(found)}),
            is_labelled=self.inputs.labelled is not None,
            progress=self.progress,
        )

    @property
    def _labelling(self) -> ChunkRunner:
        """Has done what needs images with labels: those that are objects no worker can open."""
        return self.runner if self.inputs.given.eval_data is None else self.runner.alone()

    def keep(self, **changes: Any) -> None:
        """Change the run's record, and write it."""
        self.record = self.record.model_copy(update=changes)
        self.directory.save(self.record)

    def leave(self) -> None:
        """Save what is solved, let the database catch up, and say how far the search came."""
        if self.database is not None and self.directory.study.exists():
            self.database.close(load_trials(self.directory.study, STUDY_NAME))
        self.bank.save(self.directory.bank)
        self.directory.trace.unlink(missing_ok=True)
        state = "finished" if self.record.state == "finished" else "interrupted"
        self.keep(state=state, seconds=self.clock.seconds)


def _resuming(found: int, wanted: int) -> str:
    """Say how far an earlier run came."""
    if not found:
        return ""
    return f"resuming after {found} trials" if found < wanted else f"{found} trials are there: more with --trials"
