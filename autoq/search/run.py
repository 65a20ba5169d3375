"""One whole search: model in, front of recipes in a run directory out."""

from __future__ import annotations

import os
import platform
import time
from contextlib import ExitStack
from dataclasses import dataclass
from importlib.metadata import version

from optuna.trial import FrozenTrial

import autoq
from autoq.calibration import Bank, CalibrationSettings
from autoq.cost import Budget, model_cost, uniform_bops
from autoq.errors import BudgetError
from autoq.recipe import CalibrationReference, Recipe, ScoreRecord
from autoq.scoring import Evaluator, choose_batch_size, measure_accuracy
from autoq.scoring.session import LabelledImages, Session
from autoq.scoring.threads import fastest_threads
from autoq.search.decisions import ResolvedSpace
from autoq.search.events import Phase, PhaseAdvanced, PhaseStarted, Progress, ignore
from autoq.search.front import best_within, non_dominated
from autoq.search.rundir import STUDY_NAME, MeasuredAccuracy, RunDirectory, RunRecord, SiteEntry
from autoq.search.samplers import SAMPLERS
from autoq.search.settings import SearchSettings
from autoq.search.space import load_space
from autoq.search.storage import RunLock, TrialStore
from autoq.search.study import UNIFORM, EvaluatedTrial, StudyDriver, evaluated_trials
from autoq.units import format_bops

_SAVE_SECONDS = 20.0
"""How often a bank that is being solved is written: what a kill may cost."""


@dataclass(frozen=True)
class FrontPoint:
    """A recipe on the front."""

    id: str
    bops: int
    kl_nats: float
    recipe: str


@dataclass(frozen=True)
class SearchResult:
    """What a search found.

    Attributes:
        out: the run directory.
        front: recipes within the budget that nothing within it beats, cheapest first.
        best: id of the least discrepancy within the budget, or None.
        budget_bops: the budget.
    """

    out: str
    front: tuple[FrontPoint, ...]
    best: str | None
    budget_bops: int


def run_search(settings: SearchSettings, out: str | os.PathLike[str], progress: Progress = ignore) -> SearchResult:
    """Search, or resume the search in ``out``.

    Args:
        settings: what to search.
        out: the run directory; created if missing.
        progress: told what happens.

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
        resolved = space.resolve(sites)
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
        same_labels = record is not None and record.settings.labelled_data == settings.labelled_data

        captured = 0

        def on_capture(count: int) -> None:
            nonlocal captured
            if not captured:
                progress(PhaseStarted("capture", len(images.tensor)))
            captured += count
            progress(PhaseAdvanced("capture", captured))

        calibration = CalibrationSettings(observer=settings.observer, seed=settings.seed)
        bank = session.bank(lambda: images, images.sha256, calibration, on_capture)
        bank.load(directory.bank)
        earlier = 0.0 if record is None else record.seconds
        record = RunRecord(
            settings=settings,
            versions=_versions(),
            model=session.reference,
            fingerprints={**fingerprints, "bank_fingerprint": bank.fingerprint},
            budget_bops=limit,
            uniform_8_8_bops=uniform_bops(sites, 8, 8),
            full_precision_bops=model_cost(sites, {}).bops,
            macs=session.traced.macs,
            sites=tuple(
                SiteEntry(name=s.name, op=s.op, macs=s.macs, operands=tuple(o.name for o in s.operands)) for s in sites
            ),
            images=len(images.tensor),
            full_precision=record.full_precision if record is not None and same_labels else None,
            accuracy=record.accuracy if record is not None and same_labels else {},
        )
        directory.save(record)
        run = _Run(session, resolved, bank, directory, progress, session.calibration_reference(images, bank), limit)
        store = TrialStore.open(directory.study, STUDY_NAME)
        state = "interrupted"
        try:
            few = images.tensor[: choose_batch_size(session.traced)]
            with fastest_threads(lambda: session.model.run(few), session.device):
                run.calibrate()
                evaluator = Evaluator(session.model, bank, images.tensor)
                driver = StudyDriver(
                    resolved, sites, limit, store, evaluator.evaluate, SAMPLERS[settings.sampler], settings.seed
                )
                progress(PhaseStarted("search", settings.trials))
                deadline = None if settings.time_limit_seconds is None else started + settings.time_limit_seconds
                driver.run(settings.trials, deadline, progress, run.keep_if_on_front)
                trials = evaluated_trials(store.load_trials())
                record = run.measure(record, trials, evaluator, labelled)
            result = run.finish(record, trials)
            state = "finished"
        finally:
            bank.save(directory.bank)
            seconds = earlier + time.monotonic() - started
            directory.save(record.model_copy(update={"state": state, "seconds": seconds}))
        return result


def shown_trials(trials: list[EvaluatedTrial], budget_bops: int) -> tuple[list[EvaluatedTrial], list[EvaluatedTrial]]:
    """The front within the budget, cheapest first, and the uniform points, which are shown beside it."""
    affordable = [trial for trial in trials if trial.cost.bops <= budget_bops]
    front = [affordable[i] for i in non_dominated([(t.cost.bops, t.score.kl_nats) for t in affordable])]
    return front, [trial for trial in trials if trial.origin == UNIFORM]


def best_trial(front: list[EvaluatedTrial], budget_bops: int) -> EvaluatedTrial | None:
    """The least discrepancy within the budget."""
    index = best_within([(trial.cost.bops, trial.score.kl_nats) for trial in front], budget_bops)
    return None if index is None else front[index]


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
        budget_bops: int,
    ) -> None:
        self._session, self._resolved, self._bank = session, resolved, bank
        self._directory, self._progress, self._calibration = directory, progress, calibration
        self._budget = budget_bops
        self._kept: list[EvaluatedTrial] = []

    def calibrate(self) -> None:
        """Solve every option of the space ahead, saving what is solved from time to time."""
        options = [
            (plan.site, plan.operand.name, config)
            for plan in self._resolved.plans
            for config in self._resolved.options_for(plan.site, plan.operand.name)
        ]
        self._phase("calibration", len(options))
        saved = time.monotonic()

        def on_solved(done: int, total: int) -> None:
            nonlocal saved
            self._progress(PhaseAdvanced("calibration", len(options) - total + done))
            if time.monotonic() - saved > _SAVE_SECONDS:
                self._bank.save(self._directory.bank)
                saved = time.monotonic()

        self._bank.solve_all(options, on_solved)
        self._bank.save(self._directory.bank)

    def keep_if_on_front(self, frozen: FrozenTrial) -> None:
        """Write the recipe of a trial that nothing beats so far, so that a killed run can be picked from."""
        for trial in evaluated_trials([frozen]):
            front, _ = shown_trials([*self._kept, trial], self._budget)
            if trial.origin == UNIFORM or trial in front:
                self._kept = [*(t for t in self._kept if t.origin == UNIFORM or t in front), trial]
                self.write(trial, None)

    def measure(
        self, record: RunRecord, trials: list[EvaluatedTrial], evaluator: Evaluator, labelled: LabelledImages | None
    ) -> RunRecord:
        """Accuracy of full precision, the front and the uniform points, where labels exist."""
        front, uniform = shown_trials(trials, self._budget)
        chosen = list({trial.id: trial for trial in [*front, *uniform]}.values())
        self._phase("front", len(chosen))
        if labelled is None:
            return record
        if record.full_precision is None:
            evaluator.apply({})
            full = measure_accuracy(self._session.model, labelled.batches())
            record = record.model_copy(update={"full_precision": MeasuredAccuracy(**vars(full))})
        for done, trial in enumerate(chosen, start=1):
            if trial.id not in record.accuracy:
                evaluator.apply(self._resolved.sites_for(trial.assignment))
                accuracy = MeasuredAccuracy(**vars(measure_accuracy(self._session.model, labelled.batches())))
                record = record.model_copy(update={"accuracy": {**record.accuracy, trial.id: accuracy}})
            self._progress(PhaseAdvanced("front", done))
        return record

    def finish(self, record: RunRecord, trials: list[EvaluatedTrial]) -> SearchResult:
        """Write the recipes of the front and the uniform points, and remove those that were beaten since."""
        front, uniform = shown_trials(trials, self._budget)
        for trial in {t.id: t for t in [*front, *uniform]}.values():
            self.write(trial, record.accuracy.get(trial.id))
        wanted = {self._directory.recipe_path(trial.id) for trial in [*front, *uniform]}
        for path in self._directory.recipes.glob("*.json"):
            if path not in wanted:
                path.unlink()
        best = best_trial(front, self._budget)
        points = tuple(
            FrontPoint(t.id, t.cost.bops, t.score.kl_nats, os.fspath(self._directory.recipe_path(t.id))) for t in front
        )
        return SearchResult(os.fspath(self._directory.path), points, best.id if best else None, self._budget)

    def write(self, trial: EvaluatedTrial, accuracy: MeasuredAccuracy | None) -> None:
        """Write a trial's recipe, fitted bases spelled out."""
        score = trial.score
        if accuracy is not None:
            measured = {"top1_percent": accuracy.top1_percent, "top5_percent": accuracy.top5_percent}
            score = ScoreRecord(**{**score.model_dump(), **measured, "labelled_images": accuracy.images})
        Recipe(
            model=self._session.reference,
            sites=self._bank.resolve(self._resolved.sites_for(trial.assignment)),
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


def _versions() -> dict[str, str]:
    libraries = {name: version(name) for name in ("torch", "timm", "optuna", "numpy")}
    return {"autoq": autoq.__version__, "python": platform.python_version(), **libraries}
