"""One whole search: model in, front of recipes in a run directory out."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import Any

from optuna.trial import FrozenTrial
from torch import Tensor

from autoq.calibration import Bank
from autoq.cost import Budget, model_cost, uniform_bops
from autoq.errors import BudgetError
from autoq.events import Phase, PhaseAdvanced, PhaseStarted, Progress, ignore
from autoq.recipe import CalibrationReference, Recipe, ScoreRecord, SiteConfig
from autoq.runs.images import CalibrationImages, LabelledImages
from autoq.runs.preparation import open_bank
from autoq.runs.search.directory import STUDY_NAME, RunDirectory
from autoq.runs.search.reconstruct_front import chosen_trials, reconstruct_chosen
from autoq.runs.search.record import MeasuredAccuracy, RunRecord, new_record
from autoq.runs.search.result import SearchResult, make_result
from autoq.runs.search.settings import SearchSettings
from autoq.runs.sensitivity import measure_into, options_of_space
from autoq.runs.session import Session
from autoq.scoring import Evaluator, choose_batch_size, measure_accuracy
from autoq.scoring.threads import fastest_threads
from autoq.search.allocation.problem import AllocationProblem
from autoq.search.measuring import AdditiveMeasure, JointMeasure
from autoq.search.samplers import SAMPLERS, AllocationPrior
from autoq.search.space import ResolvedSpace, load_space, resolve_space
from autoq.search.storage import RunLock, TrialStore
from autoq.search.study import StudyDriver
from autoq.search.trials import UNIFORM, EvaluatedTrial, evaluated_trials, evenly_spread, shown_trials
from autoq.sensitivity.proxies import ADDITIVE
from autoq.sensitivity.table import SensitivityTable
from autoq.units import format_bops


def run_search(
    settings: SearchSettings,
    out: str | os.PathLike[str],
    progress: Progress = ignore,
    on_searched: Callable[[], None] | None = None,
) -> SearchResult:
    """Search, or resume the search in ``out``; then reconstruct what was chosen, if that is asked for.

    Args:
        settings: what to search. If the search in ``out`` has finished with these settings and they ask for
            reconstruction, no more is proposed, whatever the time limit.
        out: the run directory; created if missing.
        progress: told what happens.
        on_searched: called when the search is finished and reconstruction, which may take long, begins.

    Raises:
        InputError: a setting is wrong, or ``out`` belongs to another run.
        RunError: something failed while running.
        KeyboardInterrupt: passed on; the run directory is complete up to the last finished trial.
    """
    started = time.monotonic()
    budget = Budget.parse(settings.budget_bops)
    space = load_space(settings.space)
    directory = RunDirectory(out)
    record = directory.refuse_other(settings)
    directory.refuse_unwritable()
    with ExitStack() as held:
        if record is not None:
            held.enter_context(RunLock(directory.path))
        progress(PhaseStarted("model", detail=settings.model))
        session = Session.open(settings.model, settings.pretrained, settings.device)
        sites = session.traced.sites
        resolved = resolve_space(space, sites)
        limit = budget.resolve(lambda weights, activations: uniform_bops(sites, weights, activations))
        _refuse_unreachable(budget, limit, session, resolved)
        progress(PhaseStarted("images", settings.calib_images, settings.data))
        labelled = None
        if settings.labelled_data is not None:
            labelled = session.labelled_images(settings.labelled_data, required=settings.eval_data is not None)
        images = session.calibration_images(settings.data, settings.calib_images, settings.seed)
        fingerprints = {"images_sha256": images.sha256, "space_fingerprint": space.fingerprint}
        if record is None:  # wrong input leaves nothing behind: a new directory is made once all of it is known good
            directory.create()
            held.enter_context(RunLock(directory.path))
        record = directory.refuse_other(settings)  # as the lock's last holder has left it
        directory.refuse_changed(record, session.reference, fingerprints)

        session, bank = open_bank(session, images, settings, directory.bank, progress)
        earlier = 0.0 if record is None else record.seconds
        fingerprints["bank_fingerprint"] = bank.fingerprint
        searched = settings.reconstruct and record is not None and record.is_search_for(settings)
        record = new_record(settings, session, limit, len(images.tensor), fingerprints, record)
        record = record.model_copy(update={"state": "finished" if searched else "running"})
        directory.save(record)
        calibrated = session.calibration_reference(images, bank)
        run = _Run(session, resolved, bank, directory, progress, calibrated, record)
        seconds = settings.time_limit_seconds
        deadline = started if searched else None if seconds is None else started + seconds

        def seconds_so_far() -> float:
            return earlier + time.monotonic() - started

        try:
            trials = run.search(images, deadline, labelled)
            run.write_all(trials)
            run.keep(state="finished", seconds=seconds_so_far())
            if settings.reconstruct:
                bank.save(directory.bank)
                if on_searched is not None:
                    on_searched()
                run.reconstruct(trials, images, labelled)
        finally:
            bank.save(directory.bank)
            state = "finished" if run.record.state == "finished" else "interrupted"
            run.keep(state=state, seconds=seconds_so_far())
        return make_result(directory, run.record, trials)


class _Run:
    """The steps of one search over what ``run_search`` has prepared."""

    def __init__(
        self,
        session: Session,
        resolved: ResolvedSpace,
        bank: Bank,
        directory: RunDirectory,
        progress: Progress,
        calibration: CalibrationReference,
        record: RunRecord,
    ) -> None:
        self._session, self._resolved, self._bank = session, resolved, bank
        self._directory, self._progress, self._calibration = directory, progress, calibration
        self._budget = record.budget_bops
        self.record = record
        self._kept: list[EvaluatedTrial] = []

    def search(
        self, images: CalibrationImages, deadline: float | None, labelled: LabelledImages | None
    ) -> list[EvaluatedTrial]:
        """Calibrate, measure options alone, evaluate recipes, and measure the accuracy of those that are shown.

        Args:
            images: to calibrate and score on.
            deadline: ``time.monotonic()`` after which nothing new is proposed.
            labelled: images to measure accuracy on, or None.

        Returns:
            All completed trials; what was held in memory for them is given back.
        """
        session, settings, sites = self._session, self.record.settings, self._session.traced.sites
        few = images.tensor[: choose_batch_size(session.traced)]
        store = TrialStore.open(self._directory.study, STUDY_NAME)
        with fastest_threads(lambda: session.model.run(few), session.device):
            self.calibrate()
            evaluator = Evaluator(session.model, self._bank, images.tensor)
            table = self.sensitivities(evaluator, images.tensor) if settings.needs_sensitivities else None
            joint = JointMeasure(evaluator, "kl" if settings.proxy in ADDITIVE else settings.proxy)
            driver = StudyDriver(
                self._resolved,
                sites,
                self._budget,
                store,
                joint if table is None or settings.proxy not in ADDITIVE else AdditiveMeasure(table),
                SAMPLERS[settings.sampler],
                AllocationPrior.of(AllocationProblem(sites, self._resolved), table, self._budget),
                settings.seed,
                settings.proxy,
            )
            self._phase("search", settings.trials)
            driver.run(settings.trials, deadline, self._progress, self.keep_if_on_front)
            driver.score_front(joint, self.keep_if_on_front)
            trials = evaluated_trials(store.load_trials())
            self.measure(trials, evaluator, labelled)
        return trials

    def calibrate(self) -> None:
        """Solve every option of the space ahead, saving what is solved from time to time."""
        options = options_of_space(self._resolved)
        self._phase("calibration", len(options))
        self._bank.solve_into(
            self._directory.bank, options, lambda done, _: self._progress(PhaseAdvanced("calibration", done))
        )

    def sensitivities(self, evaluator: Evaluator, images: Tensor) -> SensitivityTable:
        """The losses of all options alone, measured once a run."""
        settings, options = self.record.settings, options_of_space(self._resolved)
        proxy = settings.proxy if settings.proxy in ADDITIVE else settings.sensitivity
        path = self._directory.sensitivities
        return measure_into(path, options, evaluator, self._bank, images, proxy, self._progress)

    def keep_if_on_front(self, frozen: FrozenTrial) -> None:
        """Write the recipe of a trial that nothing beats so far, so that a killed run can be picked from."""
        for trial in evaluated_trials([frozen]):
            front, _ = shown_trials([*self._kept, trial], self._budget)
            if trial.origin == UNIFORM or trial in front:
                self._kept = [*(t for t in self._kept if t.origin == UNIFORM or t in front), trial]
                self.write(trial, None)

    def measure(self, trials: list[EvaluatedTrial], evaluator: Evaluator, labelled: LabelledImages | None) -> None:
        """Accuracy of full precision, of the front or a part of it, and of the uniform points; kept one by one."""
        front, uniform = shown_trials(trials, self._budget)
        spread = evenly_spread(front, self.record.settings.eval_recipes)
        picked = chosen_trials(front, self._budget) if self.record.settings.reconstruct else []
        chosen = list({trial.id: trial for trial in [*spread, *picked, *uniform]}.values())
        self._phase("front", len(chosen))
        if labelled is None:
            return
        if self.record.full_precision is None:
            self.keep(full_precision=self._accuracy(evaluator, {}, labelled))
        for done, trial in enumerate(chosen, start=1):
            if trial.id not in self.record.accuracy:
                measured = self._accuracy(evaluator, self._resolved.sites_for(trial.assignment), labelled)
                self.keep(accuracy={**self.record.accuracy, trial.id: measured})
            self._progress(PhaseAdvanced("front", done))

    def _shown(self, trials: list[EvaluatedTrial]) -> list[EvaluatedTrial]:
        front, uniform = shown_trials(trials, self._budget)
        return list({trial.id: trial for trial in [*front, *uniform]}.values())

    def _accuracy(
        self, evaluator: Evaluator, sites: Mapping[str, SiteConfig], labelled: LabelledImages
    ) -> MeasuredAccuracy:
        evaluator.apply(sites)
        return MeasuredAccuracy(**vars(measure_accuracy(self._session.model, labelled.batches())))

    def keep(self, **changes: Any) -> None:
        """Change the run's record, and write it."""
        self.record = self.record.model_copy(update=changes)
        self._directory.save(self.record)

    def write_all(self, trials: list[EvaluatedTrial]) -> None:
        """Write the recipes of the front and the uniform points, and remove those that were beaten since."""
        shown = self._shown(trials)
        for trial in shown:
            self.write(trial, self.record.accuracy.get(trial.id))
        wanted = {self._directory.recipe_path(trial.id) for trial in shown}
        for path in self._directory.recipes.glob("*.json"):
            if path not in wanted:
                path.unlink()

    def reconstruct(
        self, trials: list[EvaluatedTrial], images: CalibrationImages, labelled: LabelledImages | None
    ) -> None:
        """Finish the recipes that a person would pick; kept one by one."""
        front, _ = shown_trials(trials, self._budget)
        reconstruct_chosen(
            self._session,
            self._bank,
            self._directory,
            self.record,
            chosen_trials(front, self._budget),
            images,
            labelled,
            self._progress,
            lambda finished: self.keep(reconstructed=dict(finished)),
        )

    def write(self, trial: EvaluatedTrial, accuracy: MeasuredAccuracy | None) -> None:
        """Write a trial's recipe, fitted bases spelled out."""
        score = trial.score
        if accuracy is not None:
            measured = {"top1_percent": accuracy.top1_percent, "top5_percent": accuracy.top5_percent}
            score = ScoreRecord(**{**score.model_dump(), **measured, "labelled_images": accuracy.images})
        Recipe(
            model=self._session.reference,
            sites=self._bank.resolve(self._resolved.sites_for(trial.assignment)),
            reparameterized=dict(self._session.reparameterized),
            calibration=self._calibration,
            cost=trial.cost,
            score=score,
        ).save(self._directory.recipe_path(trial.id))

    def _phase(self, phase: Phase, total: int) -> None:
        self._progress(PhaseStarted(phase, total))


def _refuse_unreachable(budget: Budget, limit: int, session: Session, resolved: ResolvedSpace) -> None:
    cheapest = model_cost(session.traced.sites, resolved.cheapest()).bops
    if limit < cheapest:
        eight = uniform_bops(session.traced.sites, 8, 8)
        raise BudgetError(
            f"budget {budget.text!r} is {format_bops(limit)}, but the cheapest recipe in space {resolved.name!r} "
            f"costs {format_bops(cheapest)} ({100 * cheapest / eight:.1f}% of uniform w8a8): raise the budget or "
            "widen the space"
        )
