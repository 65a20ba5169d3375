"""What a search answers."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

from autoq.optimization.trials import EvaluatedTrial, best_trial, shown_trials
from autoq.runs.search.directory import SearchDirectory
from autoq.runs.search.record import ImprovedEntry, RunRecord


@dataclass(frozen=True)
class FrontPoint:
    """A recipe on the front.

    Attributes:
        id: of its trial.
        bops: cost per image.
        weight_bytes: size of the weights with their scales.
        activation_bytes: of the largest set of live activations; None in runs of early versions.
        latency_ns: by the latency table, in nanoseconds; None without one.
        kl_nats: discrepancy from full precision.
        loss: what recipes are chosen by: ``kl_nats``, or what else the search minimises.
        calibration_kl_nats: the same on the images that calibrated, where recipes were scored on others.
        recipe: path of the recipe.
    """

    id: str
    bops: int
    weight_bytes: int
    activation_bytes: int | None
    latency_ns: int | None
    kl_nats: float
    loss: float
    calibration_kl_nats: float | None
    recipe: str


@dataclass(frozen=True)
class ImprovedPoint:
    """A recipe that was finished or reconstructed.

    Attributes:
        id: of the trial that it was made from.
        recipe: path of its recipe.
        bops: cost per image.
        kl_nats: discrepancy from full precision.
        metrics: of the task on labelled images, by name; empty where there are none.
    """

    id: str
    recipe: str
    bops: int
    kl_nats: float
    metrics: Mapping[str, float]


@dataclass(frozen=True)
class SearchOutcome:
    """What a search found.

    Attributes:
        out: the run directory.
        front: recipes within the budget that nothing within it beats, cheapest first; as searched.
        best: id of the least loss within the budget, or None.
        budget_bops: the budget of BOPs, or None.
        budgets: all budgets, by kind of cost: bytes, and nanoseconds.
        finished: what was finished in closed form, now or by an earlier run, cheapest first.
        reconstructed: what was reconstructed, likewise.
    """

    out: str
    front: tuple[FrontPoint, ...]
    best: str | None
    budget_bops: int | None
    budgets: Mapping[str, int]
    finished: tuple[ImprovedPoint, ...] = ()
    reconstructed: tuple[ImprovedPoint, ...] = ()


def make_result(directory: SearchDirectory, record: RunRecord, trials: list[EvaluatedTrial]) -> SearchOutcome:
    """Make the answer of a search.

    Args:
        directory: of the run.
        record: of the run.
        trials: all that are completed.
    """
    front, _ = shown_trials(trials, record.limits)
    best = best_trial(front, record.limits)
    return SearchOutcome(
        out=os.fspath(directory.path),
        front=tuple(
            FrontPoint(
                id=trial.id,
                bops=trial.cost.bops,
                weight_bytes=trial.cost.weight_bytes,
                activation_bytes=trial.cost.activation_bytes,
                latency_ns=trial.cost.latency_ns,
                kl_nats=trial.score.kl_nats,
                loss=trial.loss,
                calibration_kl_nats=record.calibration_kl_nats.get(trial.id),
                recipe=os.fspath(directory.recipe_path(trial.id)),
            )
            for trial in front
        ),
        best=best.id if best else None,
        budget_bops=record.limits.most.get("bops"),
        budgets=dict(record.limits.most),
        finished=_improved(directory, record.finished, trials),
        reconstructed=_improved(directory, record.reconstructed, trials),
    )


def _improved(
    directory: SearchDirectory, entries: Mapping[str, ImprovedEntry], trials: list[EvaluatedTrial]
) -> tuple[ImprovedPoint, ...]:
    points = (
        ImprovedPoint(
            id=trial.id,
            recipe=os.fspath(directory.path / entry.recipe),
            bops=trial.cost.bops,
            kl_nats=entry.score.kl_nats,
            metrics=entry.score.metrics,
        )
        for trial in trials
        if (entry := entries.get(trial.id)) is not None
    )
    return tuple(sorted(points, key=lambda point: (point.bops, point.id)))
