"""Measure a recipe: its cost, its discrepancy from full precision, its accuracy."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import torch
from torch import Tensor

from autoq.cost import ModelCost
from autoq.graph.insert import QuantizedModel
from autoq.recipe import LabelsBy, Recipe, SiteConfig
from autoq.runs.labels import check_named
from autoq.runs.recipes import calibrated_on, find_quantizers, open_model, own_images
from autoq.runs.session import Session
from autoq.scoring.discrepancy import Discrepancy, Score
from autoq.scoring.evaluator import Evaluator
from autoq.scoring.outputs import finite_outputs
from autoq.scoring.sources import QuantizerSource
from autoq.tasks import CLASSIFICATION, Accuracy, BaseTask, Labels, task_from_record, with_settings


@dataclass(frozen=True)
class Measurement:
    """What was measured of a recipe.

    Attributes:
        cost: per image.
        score: discrepancy from full precision.
        task: says what these mean.
        accuracy: on labelled images; None where there are no labels.
        full_precision: accuracy of the model in full precision, likewise.
        labels_by: how labels were matched with the model's outputs, likewise.
        label_names: names of the model's outputs; None if it does not say.
    """

    cost: ModelCost
    score: Score
    task: BaseTask = CLASSIFICATION
    accuracy: Accuracy | None = None
    full_precision: Accuracy | None = None
    labels_by: LabelsBy | None = None
    label_names: Sequence[str] | None = None

    @property
    def per_class(self) -> dict[str, dict[str, float]]:
        """Metrics of single classes, by its name, or its number where it has none; empty for most tasks."""
        return {} if self.accuracy is None else named_classes(self.accuracy, self.label_names)


def evaluate_recipe(
    recipe: Recipe,
    data: object = None,
    model: str | None = None,
    device: str = "auto",
    calib_data: object = None,
    session: Session | None = None,
    task_options: Mapping[str, Any] | None = None,
) -> Measurement:
    """Load a recipe's model and its bank or reconstructed weights, and measure it.

    Args:
        recipe: what to apply; its bank is looked for beside it (``bank/``, ``../bank/``).
        data: images to measure on, all of them, by name or as in ``GivenImages``; None: those that the recipe was
            scored on, which reproduces its score.
        model: the model's name, if it is not where the recipe says.
        device: as in ``Session.open``.
        calib_data: the calibration images, if they have moved or the recipe names none.
        session: the model, already open; ``model`` and ``device`` are then not used.
        task_options: settings of the task by name, in place of those of the recipe.

    Raises:
        InputError: the recipe, its model or the images do not fit together.
        NonFiniteError: the quantized model produces NaN or infinity.
    """
    check_named((data, "evaluation"), (calib_data, "calibration"))
    task = with_settings(task_from_record(recipe.task), task_options or {})
    if session is None:
        session = open_model(recipe, model, device)
    else:
        session.check(recipe)
    session = replace(session, task=task)
    recipe, opened = calibrated_on(recipe, calib_data), session
    own = cache(lambda: own_images(opened, recipe, calib_data))
    session = opened.fitted(lambda: own().calibrating)
    calibrated, source = find_quantizers(session, recipe, lambda: own().calibrating)
    cost = session.costs.cost(recipe.sites)
    if data is None:
        evaluator = Evaluator(calibrated.model, source, own().scoring.tensor, task=session.task)
        return Measurement(cost, evaluator.evaluate(recipe.sites), session.task)
    labelled = opened.labelled_images(data, required=False)
    batches = session.reader.batches(data, labelled)
    score, accuracy, full = measure(calibrated.model, source, recipe.sites, batches, session.task)
    labels_by = None if labelled is None else labelled.labels_by
    return Measurement(cost, score, session.task, accuracy, full, labels_by, session.loaded.label_names)


def named_classes(accuracy: Accuracy, label_names: Sequence[str] | None) -> dict[str, dict[str, float]]:
    """Return metrics of single classes by the name of the class, or by its number where the model does not say."""
    return {
        str(index) if label_names is None else label_names[index]: dict(metrics)
        for index, metrics in accuracy.per_class.items()
    }


def measure(
    model: QuantizedModel,
    source: QuantizerSource,
    sites: Mapping[str, SiteConfig],
    batches: Iterable[tuple[Tensor, Labels | None]],
    task: BaseTask = CLASSIFICATION,
) -> tuple[Score, Accuracy | None, Accuracy | None]:
    """Compare full precision and a recipe's sites side by side, batch by batch.

    Args:
        model: the model that ``source`` is for.
        source: gives the quantizers.
        sites: the recipe's.
        batches: images of shape (N, C, H, W) and the task's labels, or None where there are none.
        task: says what the model's output means; fitted.

    Returns:
        The discrepancy, the accuracy of the recipe, with that of single classes, and of full precision; None without
        labels.

    Raises:
        TaskError: the model has no such output, the task is not fitted, or labels do not fit the outputs.
        NonFiniteError: the quantized model produces NaN or infinity.
        ValueError: there is no image.
    """
    discrepancy, meter, full = Discrepancy(task), task.meter(), task.meter()
    with torch.inference_mode():
        for images, labels in batches:
            model.remove_()
            reference = finite_outputs(model, images, task)
            source.apply_(sites)
            outputs = finite_outputs(model, images, task)
            discrepancy.add(reference, outputs)
            if labels is not None:
                meter.add(outputs, labels)
                full.add(reference, labels)
    measured = (meter.accuracy(per_class=True), full.accuracy()) if meter.images else (None, None)
    return discrepancy.score(), *measured
