from __future__ import annotations

import pytest
import torch
from torch import Tensor

from autoq.errors import TaskError
from autoq.tasks import SemanticSegmentationTask
from tests.contracts.tasks import TaskContract

MAPS = torch.tensor([0, 1, 2, 255]).repeat(4, 6, 1)


class TestSemanticSegmentation(TaskContract):
    task = SemanticSegmentationTask()
    shapes = [((3, 2, 2),), ((5, 1, 3),)]  # noqa: RUF012
    labels = {0: MAPS}  # noqa: RUF012


def test_intersection_over_union_by_hand() -> None:
    """Class 0: 1 pixel right of 2 that are or are taken for it; class 1: 2 of 3; class 2 is nowhere."""
    logits = torch.zeros(1, 3, 1, 4)
    logits[0, 0, 0, 0] = logits[0, 1, 0, 1:] = 1.0
    meter = SemanticSegmentationTask().meter()
    meter.add((logits,), torch.tensor([[[0, 0, 1, 1]]]))
    metrics = meter.metrics()
    assert metrics == pytest.approx({"miou_percent": 100 * (1 / 2 + 2 / 3) / 2, "pixel_accuracy_percent": 75.0})


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (torch.zeros(1, 4), r"labels have shape \(1, 4\)"),
        (torch.full((1, 2, 2), 3), "run up to 3, but the model has 3"),
    ],
)
def test_labels_that_do_not_fit_are_refused(labels: Tensor, message: str) -> None:
    with pytest.raises(TaskError, match=message):
        SemanticSegmentationTask().meter().add((torch.zeros(1, 3, 2, 2),), labels)


def test_a_classifier_is_refused() -> None:
    with pytest.raises(TaskError, match=r"takes logits \(N, classes, h, w\), but the model returns \(1, 10\)"):
        SemanticSegmentationTask().adapted((torch.zeros(1, 10),), 10)
