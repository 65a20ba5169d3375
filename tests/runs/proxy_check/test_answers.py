from __future__ import annotations

import torch

from autoq.runs.proxy_check.answers import measure_answers
from autoq.tasks import DetectionTask
from tests.tasks.objects import found, objects


def test_logits_that_are_not_finite_are_wrong() -> None:
    class Model:
        output_names = ("",)

        def run(self, images: torch.Tensor) -> tuple[torch.Tensor]:
            return (images,)

    logits = torch.tensor([[0.0, 1.0], [1.0, 0.0], [0.0, torch.nan], [0.0, torch.inf], [0.0, 2.0]])
    labels = torch.tensor([1, 1, 1, 1, 1])
    batches = [(logits[:3], labels[:3]), (logits[3:], labels[3:])]
    metrics, right = measure_answers(Model(), batches)  # type: ignore[arg-type]
    assert right == (True, False, False, False, True)
    assert metrics == {"top1_percent": 40.0}


def test_metrics_of_all_images_at_once() -> None:
    there = objects((2, 3, 12, 13), (20, 0, 40, 20), labels=(1, 0))

    class Model:
        output_names = ("logits", "pred_boxes", "pred_masks")

        def run(self, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
            return tuple(leaf.expand(len(images), *leaf.shape[1:]) for leaf in found(there, 5, 2))

    task = DetectionTask(scores="sigmoid")
    metrics, right = measure_answers(Model(), [(torch.zeros(1), [there])], task)  # type: ignore[arg-type]
    assert right == ()
    assert list(metrics) == [metric.name for metric in task.metrics]
    assert all(value > 99.9 for value in metrics.values())
