"""How right a model is on labelled images: the metrics, and each answer where answers are right or wrong."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from autoq.graph.insert import QuantizedModel
from autoq.scoring.outputs import predict
from autoq.tasks import CLASSIFICATION, BaseTask, Labels


def measure_answers(
    model: QuantizedModel, batches: Iterable[tuple[Tensor, Labels]], task: BaseTask = CLASSIFICATION
) -> tuple[dict[str, float], tuple[bool, ...]]:
    """Measure the metrics, and for each image whether the answer is right.

    Args:
        model: with whatever its slots hold.
        batches: images of shape (N, C, H, W) on the model's device, and the task's labels.
        task: says what is measured.

    Returns:
        Where answers are right or wrong, the share of right ones under the name of the main metric, and each of them;
        else all metrics, and nothing.
    """
    right: list[bool] = []
    meter = task.meter()
    with torch.inference_mode():
        for images, labels in batches:
            outputs = predict(model, images, task)
            if task.has_right_answers:
                right += task.correct(outputs, labels).tolist()
            else:
                meter.add(outputs, labels)
    if task.has_right_answers:
        return {task.main_metric.name: 100 * sum(right) / len(right)}, tuple(right)
    return dict(meter.accuracy().metrics), ()
