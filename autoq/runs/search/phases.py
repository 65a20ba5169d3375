"""The phases of a search: calibration, sensitivities, the study, accuracy, reconstruction."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from autoq.calibration import Bank
from autoq.events import PhaseAdvanced, PhaseStarted, Progress
from autoq.optimization.allocation.problem import AllocationProblem
from autoq.optimization.objective import AdditiveObjective, JointObjective
from autoq.optimization.samplers import SAMPLERS, AllocationPrior
from autoq.optimization.space.uniform_points import UniformPoint, has_schemes, uniform_points
from autoq.optimization.storage import TrialStore
from autoq.optimization.study import StudyDriver, StudySettings
from autoq.optimization.trials import EvaluatedTrial, evaluated_trials, evenly_spread, shown_trials
from autoq.recipe import SiteConfig
from autoq.runs.images import LabelledImages
from autoq.runs.opening import RunInputs, solve_bank
from autoq.runs.search.baselines import measure_baselines
from autoq.runs.search.directory import STUDY_NAME, SearchDirectory
from autoq.runs.search.recipes import RecipeWriter
from autoq.runs.search.reconstruct_front import chosen_trials, reconstruct_chosen
from autoq.runs.search.record import MeasuredAccuracy, RunRecord
from autoq.runs.sensitivity import measure_into, options_of_space
from autoq.runs.session import Session
from autoq.scoring import Evaluator, choose_batch_size, measure_accuracy
from autoq.scoring.evaluator import CACHE_BYTES
from autoq.scoring.threads import fastest_threads
from autoq.sensitivity.proxies import FISHER, KL, PROXIES
from autoq.sensitivity.table import SensitivityTable


@dataclass
class SearchRun:
    """One search over what has been opened for it.

    Attributes:
        inputs: model, space and images.
        loaded: the model as it was loaded, before anything was folded into its weights; its task fitted.
        bank: of the model.
        directory: of the run, held.
        progress: told what happens.
        writer: of recipes.
        record: of the run, as it is written.
        is_searched: whether an earlier run has finished the search.
        started: ``time.monotonic()`` when this run began.
        seconds_before: what earlier runs took.
        trials: all completed ones, once :meth:`search` is done.
    """

    inputs: RunInputs
    loaded: Session
    bank: Bank
    directory: SearchDirectory
    progress: Progress
    writer: RecipeWriter
    record: RunRecord
    is_searched: bool
    started: float
    seconds_before: float
    trials: list[EvaluatedTrial] = field(default_factory=list)

    @property
    def deadline(self) -> float | None:
        """The ``time.monotonic()`` after which nothing new is proposed."""
        seconds = self.record.settings.time_limit_seconds
        if self.is_searched:
            return self.started
        return None if seconds is None else self.started + seconds

    def search(self) -> None:
        """Calibrate, measure options alone, evaluate recipes, and measure the accuracy of those that are shown.

        What was held in memory for it is given back.
        """
        session, images = self.inputs.session, self.inputs.images.tensor
        few = images[: choose_batch_size(session.traced)]
        store = TrialStore.open(self.directory.study, STUDY_NAME)
        with fastest_threads(lambda: session.model.run(few), session.device):
            solve_bank(self.bank, options_of_space(self.inputs.space), self.directory.bank, self.progress)
            evaluator = Evaluator(session.model, self.bank, self.inputs.scoring.tensor, task=session.task)
            self._measure_baselines()
            self._run_study(store, evaluator)
            self.trials = evaluated_trials(store.load_trials())
            self._score_on_calibration()
            self._measure_accuracy(evaluator)
        self.writer.write_all(self.trials, self.record.accuracy, self.record.calibration_kl_nats)
        self.keep(state="finished", seconds=self._seconds())

    def _measure_baselines(self) -> None:
        """Calibrate and measure the published methods that are compared with; each is kept at once."""
        inputs = replace(self.inputs, session=self.loaded)
        keep = lambda found: self.keep(baselines=dict(found))  # noqa: E731
        measure_baselines(inputs, self.directory, self.record, self.progress, keep)

    def _run_study(self, store: TrialStore, evaluator: Evaluator) -> None:
        """Evaluate recipes that the sampler proposes, and score the front."""
        settings, space, sites = self.record.settings, self.inputs.space, self.inputs.session.traced.sites
        is_additive = PROXIES[settings.proxy].is_additive
        table = self._sensitivities(self._proxy_of_options()) if settings.needs_sensitivities else None
        points = self._uniform_points(table)
        joint = JointObjective(evaluator, KL if is_additive else settings.proxy)
        driver = StudyDriver(
            prior=AllocationPrior.of(AllocationProblem(sites, space), table, self.record.budget_bops),
            sites=sites,
            store=store,
            objective=AdditiveObjective(table) if table is not None and is_additive else joint,
            settings=StudySettings(SAMPLERS[settings.sampler], settings.seed, settings.proxy),
            points=points,
        )
        self.progress(PhaseStarted("search", settings.trials))
        driver.run(settings.trials, self.deadline, self.progress, self.writer.keep_if_on_front)
        driver.score_front(joint, self.writer.keep_if_on_front)

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
            evaluator=self._on_calibration(),
            bank=self.bank,
            images=self.inputs.images.tensor,
            proxy=proxy,
            progress=self.progress,
        )

    def _on_calibration(self, cache_bytes: int = CACHE_BYTES) -> Evaluator:
        """Return an evaluator on the images that calibrated."""
        session, images = self.inputs.session, self.inputs.images.tensor
        return Evaluator(session.model, self.bank, images, cache_bytes=cache_bytes, task=session.task)

    def _score_on_calibration(self) -> None:
        """Score the front and the uniform points on the images that calibrated too, if these are others."""
        if not self.inputs.is_held_out:
            return
        front, uniform = shown_trials(self.trials, self.record.budget_bops)
        known, shown = dict(self.record.calibration_kl_nats), {trial.id: trial for trial in [*front, *uniform]}
        evaluator = self._on_calibration(cache_bytes=0)
        self.progress(PhaseStarted("score", len(shown), "on the calibration images"))
        for done, (name, trial) in enumerate(shown.items(), start=1):
            if name not in known:
                known[name] = evaluator.evaluate(self.inputs.space.sites_for(trial.assignment)).kl_nats
            self.progress(PhaseAdvanced("score", done))
        self.keep(calibration_kl_nats=known)

    def _measure_accuracy(self, evaluator: Evaluator) -> None:
        """Measure full precision, the front or a part of it, and the uniform points; each is kept at once."""
        settings, budget, labelled = self.record.settings, self.record.budget_bops, self.inputs.labelled
        front, uniform = shown_trials(self.trials, budget)
        picked = chosen_trials(front, budget) if settings.reconstruct else []
        spread = evenly_spread(front, settings.eval_recipes)
        chosen = list({trial.id: trial for trial in [*spread, *picked, *uniform]}.values())
        self.progress(PhaseStarted("front", len(chosen)))
        if labelled is None:
            return
        if self.record.full_precision is None:
            self.keep(full_precision=self._accuracy(evaluator, {}, labelled))
        for done, trial in enumerate(chosen, start=1):
            if trial.id not in self.record.accuracy:
                measured = self._accuracy(evaluator, self.inputs.space.sites_for(trial.assignment), labelled)
                self.keep(accuracy={**self.record.accuracy, trial.id: measured})
            self.progress(PhaseAdvanced("front", done))

    def _accuracy(
        self, evaluator: Evaluator, sites: Mapping[str, SiteConfig], labelled: LabelledImages
    ) -> MeasuredAccuracy:
        evaluator.apply(sites)
        model = self.inputs.session.model
        return MeasuredAccuracy.of(measure_accuracy(model, labelled.batches(), task=evaluator.task))

    def reconstruct(self) -> None:
        """Finish the recipes that a person would pick; each is kept at once."""
        front, _ = shown_trials(self.trials, self.record.budget_bops)
        reconstruct_chosen(
            self.inputs,
            self.bank,
            self.directory,
            self.record,
            chosen_trials(front, self.record.budget_bops),
            self.progress,
            lambda finished: self.keep(reconstructed=dict(finished)),
        )

    def keep(self, **changes: Any) -> None:
        """Change the run's record, and write it."""
        self.record = self.record.model_copy(update=changes)
        self.directory.save(self.record)

    def leave(self) -> None:
        """Save what is solved, and say how far the search came."""
        self.bank.save(self.directory.bank)
        state = "finished" if self.record.state == "finished" else "interrupted"
        self.keep(state=state, seconds=self._seconds())

    def _seconds(self) -> float:
        return self.seconds_before + time.monotonic() - self.started
