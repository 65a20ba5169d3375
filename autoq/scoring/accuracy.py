"""Accuracy on labelled images that calibration never sees."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor

from autoq.graph.insert import QuantizedModel
from autoq.recipe import SiteConfig
from autoq.scoring.discrepancy import Discrepancy, Score
from autoq.scoring.outputs import predict
from autoq.scoring.sources import QuantizerSource
from autoq.tasks import CLASSIFICATION, Accuracy, BaseTask, Labels, Outputs

_MOST_BYTES = 1 << 28
"""Of full precision's outputs that are kept: those of 64,000 images of a thousand classes."""


def measure_accuracy(
    model: QuantizedModel,
    batches: Iterable[tuple[Tensor, Labels]],
    progress: Callable[[int], None] | None = None,
    *,
    task: BaseTask = CLASSIFICATION,
) -> Accuracy:
    """Measure a task's metrics on a model with whatever its slots hold.

    Args:
        model: what to measure.
        batches: images of shape (N, C, H, W) and the task's labels (class indices of shape (N,) for classification,
            tensors of the output's shape for dense prediction), on the model's device.
        progress: called with the number of images of each finished batch.
        task: says what the model's output means.

    Raises:
        ValueError: there is no image.
        TaskError: the labels do not fit the outputs.
    """
    meter = task.meter()
    with torch.no_grad():
        for batch, labels in batches:
            meter.add(predict(model, batch, task), labels)
            if progress is not None:
                progress(len(labels))
    return meter.accuracy()


class FullPrecision:
    """Full precision's outputs on labelled images, computed when they are first asked for.

    Who measures several recipes on the same images has one, so that full precision runs once over them.

    Attributes:
        seconds: that it took to compute what is kept.
    """

    def __init__(self, model: QuantizedModel, task: BaseTask = CLASSIFICATION) -> None:
        """Compute nothing yet.

        Args:
            model: to run; its slots are emptied whenever outputs are computed.
            task: says what the model's output means.
        """
        self._model, self._task = model, task
        self._kept: dict[int, Outputs] = {}
        self._bytes_left = _MOST_BYTES
        self.seconds = 0.0

    def has(self, index: int) -> bool:
        """Tell whether the outputs of a batch are kept."""
        return index in self._kept

    def outputs(self, index: int, batch: Tensor) -> Outputs:
        """Return the outputs of a batch; the first 256 MiB of all are kept, others are computed again each time.

        Args:
            index: of the batch, among batches that always come in the same order.
            batch: images of shape (N, C, H, W), on the model's device.

        Raises:
            TaskError: the model has no such output.
        """
        if index in self._kept:
            return self._kept[index]
        started = time.monotonic()
        self._model.remove_()
        with torch.no_grad():
            outputs = predict(self._model, batch, self._task)
        size = sum(leaf.numel() * leaf.element_size() for leaf in outputs)
        if size <= self._bytes_left:
            self._bytes_left -= size
            self._kept[index] = outputs
            self.seconds += time.monotonic() - started
        return outputs


def measure_beside_full_precision(
    model: QuantizedModel,
    source: QuantizerSource,
    sites: Mapping[str, SiteConfig],
    batches: Iterable[tuple[Tensor, Labels]],
    progress: Callable[[int], None] | None = None,
    *,
    task: BaseTask = CLASSIFICATION,
    full_precision: FullPrecision | None = None,
) -> tuple[Accuracy, Accuracy, Score]:
    """Measure a task's metrics in full precision and on a recipe, and how far these are apart, in one pass.

    Args:
        model: the model that ``source`` is for.
        source: gives the quantizers.
        sites: the recipe's.
        batches: as in :func:`measure_accuracy`.
        progress: likewise.
        task: likewise.
        full_precision: on the same batches; None: ``model`` with empty slots.

    Returns:
        The metrics in full precision, those of the recipe, and the recipe's discrepancy on the same images.

    Raises:
        ValueError: there is no image.
        TaskError: the labels do not fit the outputs.
    """
    full, quantized, discrepancy = task.meter(), task.meter(), Discrepancy(task)
    full_precision = full_precision or FullPrecision(model, task)
    is_applied = False
    with torch.no_grad():
        for index, (batch, labels) in enumerate(batches):
            is_applied = is_applied and full_precision.has(index)  # computing it empties slots
            reference = full_precision.outputs(index, batch)
            full.add(reference, labels)
            if not is_applied:
                source.apply_(sites)
                is_applied = True
            outputs = predict(model, batch, task)
            quantized.add(outputs, labels)
            discrepancy.add(reference, outputs)
            if progress is not None:
                progress(len(labels))
    return full.accuracy(), quantized.accuracy(), discrepancy.score()
