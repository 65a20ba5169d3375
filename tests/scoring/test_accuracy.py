from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from autoq.errors import TaskError
from autoq.graph.insert import QuantizedModel
from autoq.graph.trace import trace
from autoq.scoring import measure_accuracy
from autoq.tasks import ClassificationTask, DenseTask
from tests.runs.small_run import small_session


class TwoOutputs(nn.Module):
    """Eight logits that do not depend on the image, and a map that is the image's first channel, doubled."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(4, 8)
        nn.init.zeros_(self.head.weight)
        self.head.bias = nn.Parameter(torch.arange(8.0))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.head(x[:, 0, 0]), 2 * x[:, 0]


def model() -> QuantizedModel:
    return QuantizedModel(trace(TwoOutputs().eval(), torch.randn(2, 1, 4, 4)))


def test_classes_by_hand() -> None:
    seen: list[int] = []
    batches = [(torch.zeros(3, 1, 4, 4), torch.tensor([7, 6, 2])), (torch.zeros(1, 1, 4, 4), torch.tensor([3]))]
    accuracy = measure_accuracy(model(), batches, seen.append)
    assert accuracy.metrics == {"top1_percent": 25.0, "top5_percent": 75.0}
    assert accuracy.images == 4
    assert seen == [3, 1]
    with pytest.raises(ValueError, match="no images"):
        measure_accuracy(model(), [])


def test_maps_by_hand() -> None:
    image = torch.arange(16.0).reshape(1, 1, 4, 4)
    task = DenseTask(output="1")
    accuracy = measure_accuracy(model(), [(image, 2 * image[:, 0]), (image, 2 * image[:, 0] + 3)], task=task)
    assert accuracy.metrics == pytest.approx({"rmse": 4.5**0.5, "mae": 1.5})
    with pytest.raises(TaskError, match="labels have shape"):
        measure_accuracy(model(), [(image, image)], task=task)
    with pytest.raises(TaskError, match="no output '2' to compare, there is '0', '1'"):
        measure_accuracy(model(), [(image, image)], task=ClassificationTask(output="2"))


def test_accuracy_counts_the_labelled() -> None:
    """Top-5 contains top-1; labels that are all wrong are not hit."""
    session = small_session()
    labelled = session.labelled_images("digits/calib")
    assert labelled is not None
    session.model.remove_()
    right = measure_accuracy(session.model, labelled.batches())
    top1, top5 = right.metrics["top1_percent"], right.metrics["top5_percent"]
    assert right.images == labelled.count == 256
    assert 95 < top1 <= top5 <= 100
    assert top1 == 100 * round(2.56 * top1) / 256
    wrong = measure_accuracy(session.model, ((x, (y + 1) % 10) for x, y in labelled.batches()))
    assert wrong.metrics["top1_percent"] < 5
