"""What meters inherit."""

from __future__ import annotations

import pytest
import torch

from autoq.errors import TaskError
from autoq.tasks._meter import Accuracy, BaseMeter, Labels, Outputs, as_tensor


class CountMeter(BaseMeter):
    """The share of labels that are one."""

    def __init__(self) -> None:
        self._ones = 0

    def add(self, outputs: Outputs, labels: Labels) -> None:
        self._ones += int((as_tensor(labels) == 1).sum())
        self.images += len(outputs[0])

    def metrics(self) -> dict[str, float]:
        return {"ones": self._ones / self.images}


def test_meters_refuse_to_answer_before_the_first_image() -> None:
    meter = CountMeter()
    with pytest.raises(ValueError, match="no images to measure accuracy on"):
        meter.accuracy()
    meter.add((torch.zeros(3, 2),), torch.tensor([1, 0, 1]))
    meter.add((torch.zeros(1, 2),), torch.tensor([0]))
    assert meter.accuracy() == Accuracy({"ones": 0.5}, 4)


def test_labels_that_are_no_tensor_are_refused() -> None:
    with pytest.raises(TaskError, match="labels are a tensor with an entry for each image, not list"):
        CountMeter().add((torch.zeros(1, 2),), [object()])
