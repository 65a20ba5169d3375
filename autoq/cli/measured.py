"""Output of commands that measure a recipe: one wording, one set of JSON keys."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from autoq.units import LABELS_BY

if TYPE_CHECKING:
    from autoq.recipe import Recipe
    from autoq.tasks import Accuracy, BaseTask


def measured_json(recipe: Recipe) -> dict[str, Any]:
    """Return cost, discrepancy and the task's metrics as JSON has them; null for metrics that were not measured."""
    from autoq.tasks import task_from_record

    document = recipe.to_json()
    names = [metric.name for metric in task_from_record(recipe.task).metrics]
    keys = [*names, "labelled_images", "labels_by", "full_precision"]
    return {**document["cost"], **dict.fromkeys(keys), **document["score"]}


def accuracy_line(recipe: Recipe) -> str | None:
    """Return the main metric beside full precision, in words, or None if it was not measured."""
    from autoq.tasks import task_from_record

    metric = task_from_record(recipe.task).main_metric
    if recipe.score is None or (value := recipe.score.metrics.get(metric.name)) is None:
        return None
    before = (recipe.score.full_precision or {}).get(metric.name)
    full = "" if before is None else f", full precision {metric.format(before, 2)}"
    matched = "" if recipe.score.labels_by is None else f", labels {LABELS_BY[recipe.score.labels_by]}"
    return f"{metric.title} {metric.format(value, 2)}{full}, of {recipe.score.labelled_images} images{matched}"


def figures_line(recipe: Recipe) -> str:
    """Return cost, discrepancy and the main metric of a measured recipe in a line."""
    from autoq.units import format_bops, format_kl

    cost, score, accuracy = recipe.cost, recipe.score, accuracy_line(recipe)
    assert cost is not None and score is not None  # noqa: S101, PT018 - as its caller has seen
    told = f"KL {format_kl(score.kl_nats)} nats over {score.images} images, {format_bops(cost.bops)}"
    return told if accuracy is None else f"{told}; {accuracy}"


def improved_lines(before: Recipe, after: Recipe) -> list[str]:
    """Return what was measured of an improved recipe, beside what the recipe before it had on as many images."""
    from autoq.units import format_bops, format_kl

    cost, score, was = after.cost, after.score, ""
    assert cost is not None and score is not None  # noqa: S101, PT018 - both are filled
    if before.score is not None and before.score.images == score.images:
        was = f"{format_kl(before.score.kl_nats)} -> "
    headline = f"KL {was}{format_kl(score.kl_nats)} nats over {score.images} images, {format_bops(cost.bops)}"
    accuracy = accuracy_line(after)
    return [headline] if accuracy is None else [headline, accuracy]


def metrics_text(task: BaseTask, accuracy: Accuracy) -> str:
    """Return all metrics in a line: ``top-1 71.34 %, top-5 90.17 %``."""
    measured = [metric for metric in task.metrics if metric.name in accuracy.metrics]
    return ", ".join(f"{metric.title} {metric.format(accuracy.metrics[metric.name], 2)}" for metric in measured)
