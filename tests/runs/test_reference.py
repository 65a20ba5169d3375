"""What full precision says of the calibration images is looked at before anything is calibrated."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from autoq.errors import TaskError
from autoq.models import describe_module
from autoq.runs.images import CalibrationImages
from autoq.runs.reference import check_reference
from autoq.runs.session import Session
from autoq.tasks import BaseTask, ClassificationTask, DenseTask


class Head(nn.Module):
    """Logits that are ``scale`` times a random projection of the image, and a bias."""

    def __init__(self, scale: float, classes: int = 4) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.head = nn.Linear(16, classes)
        with torch.no_grad():
            self.head.weight.mul_(scale)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(x.flatten(1))


def session(scale: float, classes: int = 4, task: BaseTask | None = None) -> Session:
    loaded = describe_module(Head(scale, classes).eval(), example_input=torch.zeros(1, 1, 4, 4))
    return Session.of(loaded, "cpu", task or ClassificationTask())


def images(count: int = 6, spread: float = 1.0) -> CalibrationImages:
    tensor = torch.ones(count, 1, 4, 4) + spread * torch.randn(
        count, 1, 4, 4, generator=torch.Generator().manual_seed(0)
    )
    return CalibrationImages("photos", 0, tensor)


def test_a_model_that_tells_images_apart_passes(caplog: pytest.LogCaptureFixture) -> None:
    check_reference(session(1.0), images())
    check_reference(session(0.0), images(1))
    assert not [record for record in caplog.records if record.name.startswith("autoq")]


@pytest.mark.parametrize("task", [ClassificationTask(), DenseTask(variance=1.0)])
def test_the_same_output_for_every_image_is_refused(task: BaseTask) -> None:
    with pytest.raises(TaskError, match="the same output for every image: check the weights"):
        check_reference(session(0.0, task=task), images())
    with pytest.raises(TaskError, match=r"all 6 images are the same .* check 'photos'"):
        check_reference(session(1.0, task=task), images(spread=0.0))


def test_one_class_is_refused_one_number_is_not() -> None:
    with pytest.raises(TaskError, match=r"the model has one output.*use --task dense"):
        check_reference(session(1.0, classes=1), images())
    check_reference(session(1.0, classes=1, task=DenseTask(variance=1.0)), images())


def test_predictions_that_hardly_differ_are_told_of(caplog: pytest.LogCaptureFixture) -> None:
    check_reference(session(0.03), images())
    assert "full precision hardly tells images apart" in caplog.text


def test_random_weights_are_told_of(caplog: pytest.LogCaptureFixture) -> None:
    check_reference(replace(session(1.0), pretrained=False), images())
    assert "the weights are random" in caplog.text
