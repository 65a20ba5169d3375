"""``autoq.evaluate``."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from autoq.api.applying import load
from autoq.api.opening import ModelInput, ModelOptions, example_of, open_model
from autoq.errors import ArgumentTypeError
from autoq.graph.outputs import tensor_names
from autoq.models import LoadedModel, describe_module, dtype_of, load_model
from autoq.models.loaded import Preprocess
from autoq.recipe import CostRecord, LabelsBy, Recipe
from autoq.runs.evaluate import evaluate_recipe, named_classes
from autoq.runs.images import ImageReader
from autoq.scoring.discrepancy import Discrepancy, Score
from autoq.scoring.outputs import finite_outputs
from autoq.scoring.quantized_module import QuantizedModule
from autoq.tasks import CLASSIFICATION, BaseTask, Outputs, make_task, task_from_record, with_settings


@dataclass(frozen=True)
class Evaluation:
    """What was measured of a quantized model; None for what was not.

    Attributes:
        images: how many it is measured on.
        metrics: the task's, on labelled images: ``top1_percent`` and ``top5_percent`` of classification; empty if
            there were no labels.
        full_precision: the same of the model in full precision; empty if it was not there to compare with.
        labels_by: how classes were matched with the model's outputs: by ``name``, ``index`` or ``order``.
        cost: bit operations and bytes, of a recipe or a quantized module.
        score: discrepancy from full precision: ``kl_nats``, ``agreement_percent``, ``sqnr_db``.
        task: what the output means, and how its metrics are called.
        per_class: metrics of single classes (average precision, intersection over union), by the name of the class or
            by its number; empty for tasks that have none.

    Examples:
        >>> Evaluation(540, {"top1_percent": 98.7}).to_json()["top1_percent"]
        98.7
    """

    images: int
    metrics: Mapping[str, float] = field(default_factory=dict)
    cost: CostRecord | None = None
    score: Score | None = None
    task: BaseTask = CLASSIFICATION
    full_precision: Mapping[str, float] = field(default_factory=dict)
    labels_by: LabelsBy | None = None
    per_class: Mapping[str, Mapping[str, float]] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return all figures by the names that ``autoq evaluate --json`` gives them."""
        cost, score = self.cost, self.score
        names = ("bops", "group_bops", "weight_layers_only_bops", "weight_bytes", "activation_bytes")
        return {
            **{name: None if cost is None else getattr(cost, name) for name in names},
            **{name: None if score is None else getattr(score, name) for name in _SCORES},
            **{metric.name: self.metrics.get(metric.name) for metric in self.task.metrics},
            "images": self.images,
            "labels_by": self.labels_by,
            "full_precision": dict(self.full_precision) or None,
            "per_class": {name: dict(metrics) for name, metrics in self.per_class.items()} or None,
        }


_SCORES = ("kl_nats", "agreement_percent", "sqnr_db")
_BATCH_SIZE = 64


def evaluate(
    quantized: nn.Module | Recipe | str | os.PathLike[str],
    data: object = None,
    *,
    model: ModelInput | None = None,
    calib_data: object = None,
    task: str = "classification",
    output: str | None = None,
    task_options: Mapping[str, Any] | None = None,
    preprocess: Preprocess | None = None,
    example_input: Tensor | None = None,
    device: str = "auto",
) -> Evaluation:
    """Measure a quantized model: accuracy on labelled images, discrepancy from full precision, cost.

    Args:
        quantized: a quantized module, any other module (its accuracy alone), a recipe, or the path of one
            or of a run directory (its best).
        data: images to measure on, all of them: (images, labels), a data set or an iterable of such batches, images
            alone, or a name. None, for recipes only: the calibration images, which reproduces the recipe's score.
        model: the model in full precision, to compare a module with; of a recipe, if it cannot be loaded by its name.
        calib_data: of a recipe, the calibration images, if its bank is not beside it and its own
            cannot be opened by name.
        task: what the output of a module means; a recipe and a quantized module say so themselves.
        output: dotted name of the part of a module's output that is compared; None: as the task chooses.
        task_options: settings of the task by name, in place of those of the recipe or module: of detectors
            ``{"nms_iou": 0.5, "most_objects": 300}``.
        preprocess: from a PIL image to a tensor (C, H, W), where images are not tensors and the model does not say.
        example_input: an example of the input, of shape (N, ...), where images do not tell.
        device: where a recipe's model runs.

    Raises:
        InputError: the images do not fit the model, or the recipe is another model's.
        NonFiniteError: the quantized model produces NaN or infinity.

    Examples:
        >>> import autoq
        >>> quantized = autoq.quantize("vit_digits", "rtn", images="digits", bits="w8a8", calib_images=16)
        >>> measured = autoq.evaluate(quantized, "digits/val", model="vit_digits")
        >>> measured.metrics["top1_percent"] > 95, measured.score.kl_nats < 0.1
        (True, True)
    """
    options = ModelOptions(preprocess, example_input, device=device)
    if isinstance(quantized, nn.Module):
        if isinstance(quantized, QuantizedModule):
            meaning = task_from_record(quantized.recipe.task)
        else:
            meaning = make_task(task, output=output)
        return _evaluate_module(quantized, data, model, options, with_settings(meaning, task_options or {}))
    recipe = load(quantized)
    session = open_model(model, options.for_recipe(recipe), data) if isinstance(model, nn.Module) else None
    named = model if isinstance(model, str) else None
    found = evaluate_recipe(recipe, data, named, device, calib_data, session, task_options)
    metrics = found.accuracy.metrics if found.accuracy else {}
    full = found.full_precision.metrics if found.full_precision else {}
    cost, score = found.cost.record(), found.score
    return Evaluation(score.images, metrics, cost, score, found.task, full, found.labels_by, found.per_class)


def _evaluate_module(
    module: nn.Module, data: object, model: ModelInput | None, options: ModelOptions, task: BaseTask
) -> Evaluation:
    if data is None:
        raise ArgumentTypeError("a module is evaluated on images: give data")
    cost = None
    if isinstance(module, QuantizedModule):
        cost = module.recipe.cost
        options = options.for_recipe(module.recipe)
    reference = None if model is None else open_model(model, options, data, task).adapted()
    reader = reader_of(module, options, data, task) if reference is None else reference.reader
    task = reader.task
    discrepancy, meter, full, images_seen = Discrepancy(task), task.meter(), task.meter(), 0
    labelled = reader.labelled_images(data, required=False)
    with torch.inference_mode():
        for images, labels in reader.batches(data, labelled):
            outputs, _ = _outputs(module, images, task)
            images_seen += len(images)
            expected = None if reference is None else finite_outputs(reference.model, images, task)
            if expected is not None:
                discrepancy.add(expected, outputs)
            if labels is not None:
                meter.add(outputs, labels)
                if expected is not None:
                    full.add(expected, labels)
    accuracy, before = (each.accuracy(per_class=each is meter) if each.images else None for each in (meter, full))
    score = None if reference is None else discrepancy.score()
    return Evaluation(
        images_seen,
        {} if accuracy is None else accuracy.metrics,
        cost,
        score,
        task,
        {} if before is None else before.metrics,
        None if labelled is None else labelled.labels_by,
        {} if accuracy is None else named_classes(accuracy, reader.loaded.label_names),
    )


def _outputs(module: nn.Module, images: Tensor, task: BaseTask) -> tuple[Outputs, list[str]]:
    """Return the compared outputs of a module that is run as it is, and the names of all its outputs."""
    output = module(images)
    names = tensor_names(output)
    return task.outputs_of(pytree.tree_leaves(output), names), names


def reader_of(module: nn.Module, options: ModelOptions, data: object, task: BaseTask) -> ImageReader:
    """Return what makes the input of a module that is run as it is; its task is adapted to the module."""
    loaded = _described(module, options, data)
    parameter = next(module.parameters(), None)
    device, dtype = torch.device("cpu") if parameter is None else parameter.device, dtype_of(module)
    with torch.inference_mode():
        blank = torch.zeros(1, *loaded.input_size, device=device, dtype=dtype)
        outputs, names = _outputs(module, blank, task)
    task = task.adapted(outputs, loaded.num_classes, names)
    return ImageReader(loaded, task.num_classes(outputs), _BATCH_SIZE, device, dtype, task)


def _described(module: nn.Module, options: ModelOptions, data: object) -> LoadedModel:
    """Return what is known about the input of a module; of a quantized one, by the name of its original if need be."""
    if isinstance(module, QuantizedModule) and isinstance(data, str) and options.preprocess is None:
        return load_model(module.recipe.model.name, module.recipe.model.pretrained)
    example = options.example_input
    if example is None and options.preprocess is None:
        example = example_of(data)
    return describe_module(module, preprocess=options.preprocess, example_input=example)
