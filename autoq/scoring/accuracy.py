"""Accuracy on labelled images that calibration never sees."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor

from autoq.graph.insert import QuantizedModel
from autoq.recipe import SiteConfig
from autoq.scoring.discrepancy import Discrepancy, Score
from autoq.scoring.outputs import predict
from autoq.scoring.sources import QuantizerSource
from autoq.tasks import CLASSIFICATION, Accuracy, BaseTask, Labels, Outputs


def measure_accuracy(
    model: QuantizedModel,
    batches: Iterable[tuple[Tensor, Labels]],
    progress: Callable[[int], None] | None = None,
    *,
    task: BaseTask = CLASSIFICATION,
    on_outputs: Callable[[Outputs], None] | None = None,
) -> Accuracy:
    """Measure a task's metrics on a model with whatever its slots hold.

    Args:
        model: what to measure.
        batches: images of shape (N, C, H, W) and the task's labels (class indices of shape (N,) for classification,
            tensors of the output's shape for dense prediction), on the model's device.
        progress: called with the number of images of each finished batch.
        task: says what the model's output means.
        on_outputs: gets the compared outputs of each batch.

    Raises:
        ValueError: there is no image.
        TaskError: the labels do not fit the outputs.
    """
    meter = task.meter()
    with torch.no_grad():
        for batch, labels in batches:
            outputs = predict(model, batch, task)
            meter.add(outputs, labels)
            if on_outputs is not None:
                on_outputs(outputs)
            if progress is not None:
                progress(len(labels))
    return meter.accuracy()


def measure_beside_full_precision(
    model: QuantizedModel,
    source: QuantizerSource,
    sites: Mapping[str, SiteConfig],
    batches: Iterable[tuple[Tensor, Labels]],
    progress: Callable[[int], None] | None = None,
    *,
    task: BaseTask = CLASSIFICATION,
) -> tuple[Accuracy, Accuracy, Score]:
    """Measure a task's metrics in full precision and on a recipe, and how far these are apart, in one pass.

    Args:
        model: the model that ``source`` is for.
        source: gives the quantizers.
        sites: the recipe's.
        batches: as in :func:`measure_accuracy`.
        progress: likewise.
        task: likewise.

    Returns:
        The metrics in full precision, those of the recipe, and the recipe's discrepancy on the same images.

    Raises:
        ValueError: there is no image.
        TaskError: the labels do not fit the outputs.
    """
    full, quantized, discrepancy = task.meter(), task.meter(), Discrepancy(task)
    with torch.no_grad():
        for batch, labels in batches:
            model.remove_()
            reference = predict(model, batch, task)
            full.add(reference, labels)
            source.apply_(sites)
            outputs = predict(model, batch, task)
            quantized.add(outputs, labels)
            discrepancy.add(reference, outputs)
            if progress is not None:
                progress(len(labels))
    return full.accuracy(), quantized.accuracy(), discrepancy.score()
