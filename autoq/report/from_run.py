"""Fill a ``RunSummary`` from a run directory, finished or not."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from autoq.errors import RunDirectoryError
from autoq.optimization.front import hypervolume
from autoq.optimization.trials import EvaluatedTrial, shown_trials
from autoq.recipe import CostRecord, ScoreRecord
from autoq.report.points import PUBLISHED, Improved, Point
from autoq.report.summary import Meaning, RunSummary, SiteRow
from autoq.runs.search.directory import SearchDirectory
from autoq.runs.search.record import ImprovedEntry, ImprovedKind, RunRecord
from autoq.runs.search.trial_recipes import TrialRecipes
from autoq.sensitivity.proxies import PROXIES
from autoq.sensitivity.table import SensitivityTable
from autoq.tasks import task_from_record
from autoq.units import KL_LOSS


def summarize(directory: str | os.PathLike[str]) -> RunSummary:
    """Read a run directory; needs neither the model nor the images.

    Raises:
        RunDirectoryError: there is no run, or its files are damaged.
        TaskError: the run is for a task that does not exist.
    """
    run = SearchDirectory(directory)
    record = run.require()
    trials = run.trials()
    front, uniform = shown_trials(trials, record.limits)
    best = front[-1] if front else None
    proxy = PROXIES[record.settings.proxy]
    worst = max((trial.loss for trial in uniform), default=None)
    volume = None
    if worst is not None and front:
        volume = (
            hypervolume([trial.point for trial in front], (record.uniform_8_8_cost, worst)) / record.uniform_8_8_cost
        )
    full, task = record.full_precision, task_from_record(record.task)
    found = _points(run, record, trials, {trial.id for trial in front})
    return RunSummary(
        model=record.settings.model,
        data=record.settings.data,
        images=record.images,
        scoring_images=record.scoring_images,
        published=tuple(_published(run, record, name) for name in record.baselines),
        baseline_bits=record.baseline_bits,
        budgets={name: (record.settings.budgets[name].text, limit) for name, limit in record.budgets.items()},
        points=found,
        sites=tuple(SiteRow(site.name, site.op, site.macs, site.operands) for site in record.sites),
        best_id=best.id if best else None,
        full_precision_bops=record.full_precision_bops,
        macs=record.macs,
        full_precision_metric=full.metrics.get(task.main_metric.name) if full else None,
        meaning=Meaning.of(task, proxy.loss),
        eval_data=record.settings.labelled_data if full else None,
        eval_images=full.images if full else None,
        labels_by=record.labels_by,
        accuracy_left_out=record.accuracy_left_out,
        hypervolume=volume,
        hypervolume_reference="" if worst is None else _reference(record, worst),
        directory=os.fspath(directory),
        interrupted=record.state != "finished",
        improved=(*_improved(record, "finished", found), *_improved(record, "reconstructed", found)),
        sensitivity=SensitivityTable.load(run.sensitivities) if run.sensitivities.is_file() else None,
        random_weights=not record.model.pretrained,
        settings=_settings(record, len(trials)),
    )


def _points(
    run: SearchDirectory, record: RunRecord, trials: list[EvaluatedTrial], front: set[str]
) -> tuple[Point, ...]:
    """Return all trials with their recipes: from files where these are, else made from the study."""
    if not trials:
        return ()
    recipes = TrialRecipes.load(run.space)
    return tuple(_point(run, record, trial, front, recipes) for trial in trials)


def _point(
    run: SearchDirectory, record: RunRecord, trial: EvaluatedTrial, front: set[str], recipes: TrialRecipes
) -> Point:
    accuracy, metric = record.accuracy.get(trial.id), task_from_record(record.task).main_metric.name
    path = run.recipe_path(trial.id)
    written = _read_recipe(path)
    return Point(
        id=trial.id,
        origin=trial.origin,
        label=trial.label,
        **_figures(record, trial.cost, trial.score),
        calibration_kl_nats=record.calibration_kl_nats.get(trial.id),
        labelled_kl_nats=accuracy.kl_nats if accuracy else None,
        metric=accuracy.metrics.get(metric) if accuracy else None,
        feasible=record.limits.admit(trial.cost),
        on_front=trial.id in front,
        recipe=recipes.document(trial, record) if written is None else written,
        recipe_path=None if written is None else f"recipes/{path.name}",
    )


def _published(run: SearchDirectory, record: RunRecord, name: str) -> Point:
    entry, metric = record.baselines[name], task_from_record(record.task).main_metric.name
    recipe = _read_recipe(run.path / entry.recipe)
    return Point(
        id=name,
        origin=PUBLISHED,
        label=entry.label,
        **_figures(record, entry.cost, entry.score),
        calibration_kl_nats=entry.score.calibration_kl_nats,
        labelled_kl_nats=entry.score.labelled_kl_nats,
        metric=entry.score.metrics.get(metric),
        feasible=record.limits.admit(entry.cost),
        recipe=recipe,
        recipe_path=entry.recipe if recipe is not None else None,
    )


def _figures(record: RunRecord, cost: CostRecord, score: ScoreRecord) -> dict[str, Any]:
    """Return what a point has of its recipe's cost and score, by the names of its fields."""
    return {
        **cost.model_dump(),
        "cost_field": record.limits.chosen.field,
        "other_loss": _other_loss(record, score),
        **score.model_dump(include={"kl_nats", "agreement_percent", "sqnr_db"}),
    }


def _other_loss(record: RunRecord, score: ScoreRecord) -> float | None:
    """Return the loss that recipes are chosen by, if that is not the KL divergence."""
    proxy = PROXIES[record.settings.proxy]
    return None if proxy.loss == KL_LOSS else proxy.loss_of(score)


def _read_recipe(path: Path) -> dict[str, Any] | None:
    """Return a recipe as JSON data; None if it is not there."""
    if not path.is_file():
        return None
    try:
        recipe: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RunDirectoryError(
            f"cannot read recipe {os.fspath(path)!r}; the same search writes it again: {error}"
        ) from error
    return recipe


def _improved(record: RunRecord, kind: ImprovedKind, points: tuple[Point, ...]) -> list[Improved]:
    metric = task_from_record(record.task).main_metric.name
    known: dict[str, ImprovedEntry] = getattr(record, kind)
    entries = ((point, known[point.id]) for point in points if point.id in known)
    found = (
        Improved(
            kind=kind,
            point=point,
            kl_nats=entry.score.kl_nats,
            other_loss=_other_loss(record, entry.score),
            labelled_kl_nats=entry.score.labelled_kl_nats,
            agreement_percent=entry.score.agreement_percent,
            sqnr_db=entry.score.sqnr_db,
            metric=entry.score.metrics.get(metric),
            iterations=entry.iterations,
            images=entry.images,
            recipe_path=entry.recipe,
        )
        for point, entry in entries
    )
    return sorted(found, key=lambda each: (each.cost, each.point.id))


def _reference(record: RunRecord, worst: float) -> str:
    eight, loss = record.limits.chosen.format(record.uniform_8_8_cost), PROXIES[record.settings.proxy].loss
    return f"share of {eight} (uniform 8/8) × decades of {loss.title} below {loss.format(worst)}"


def _settings(record: RunRecord, trials: int) -> dict[str, str]:
    settings = record.settings
    return {
        **({"task": " of output ".join(filter(None, (settings.task, settings.output)))} if record.task else {}),
        "search space": settings.space,
        **({"target": settings.target} if settings.target else {}),
        **({"fixed": ", ".join(settings.fix)} if settings.fix else {}),
        **({"excluded": ", ".join(settings.exclude)} if settings.exclude else {}),
        "sampler": settings.sampler,
        "proxy": settings.proxy,
        "trials": str(trials),
        "seed": str(settings.seed),
        "range observer": settings.observer
        + (", rotated channels" if settings.rotate else "")
        + (", centred keys" if settings.centre_keys else "")
        + (", reparameterized LayerNorms" if settings.reparameterize else ""),
        "weights rounded": "by layer output (GPTQ)" if settings.second_order else "to nearest",
        "wall time": f"{record.seconds:.0f} s",
        "weights": record.model.weights_sha256[:12] + ("" if record.model.pretrained else " (random)"),
        "bank": record.fingerprints.get("bank_fingerprint", ""),
        **record.versions,
    }
