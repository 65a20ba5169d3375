from __future__ import annotations

import pytest
import torch
from torch import Tensor

from autoq.errors import TaskError
from autoq.tasks import SemanticSegmentationTask
from autoq.tasks.semantic_segmentation import class_scores
from tests.contracts.tasks import TaskContract

MAPS = torch.tensor([0, 1, 2, 255]).repeat(4, 6, 1)


class TestSemanticSegmentation(TaskContract):
    task = SemanticSegmentationTask()
    shapes = [((3, 2, 2),), ((5, 1, 3),)]  # noqa: RUF012
    labels = {0: MAPS}  # noqa: RUF012


class TestQueries(TaskContract):
    task = SemanticSegmentationTask(queries=True, mask_weight=2.0)
    shapes = [((3, 4), (3, 2, 2)), ((2, 4), (2, 1, 3))]  # noqa: RUF012
    labels = {0: MAPS}  # noqa: RUF012


def test_a_pixel_has_the_class_of_the_largest_sum_over_queries() -> None:
    """The third query is surer of both pixels than another, but of the left one less than the first two together."""
    probabilities = torch.tensor([[0.5, 0.1, 0.4], [0.4, 0.1, 0.5], [0.1, 0.8, 0.1]])  # classes 0 and 1, none
    masks = torch.tensor([[[0.8, 0.3]], [[0.9, 0.3]], [[0.8, 0.9]]])
    outputs = (probabilities.log().unsqueeze(0), masks.logit().unsqueeze(0))
    expected = torch.tensor([[[0.5 * 0.8 + 0.4 * 0.9 + 0.1 * 0.8, 0.36], [0.1 * 1.7 + 0.8 * 0.8, 0.78]]])
    torch.testing.assert_close(class_scores(tuple(leaf[0] for leaf in outputs)), expected.movedim(0, 1))
    task = SemanticSegmentationTask().adapted(outputs, 2)
    assert task.queries
    assert task.num_classes(outputs) == 2
    meter = task.meter()
    meter.add(outputs, torch.tensor([[[0, 1]]]))
    assert meter.metrics() == {"miou_percent": 100.0, "pixel_accuracy_percent": 100.0}


def test_classes_and_masks_of_queries_are_found_by_name() -> None:
    leaves = (torch.zeros(1), torch.zeros(2, 3, 4), torch.zeros(2, 3, 8, 8))
    names = ("loss", "class_queries_logits", "masks_queries_logits")
    assert SemanticSegmentationTask().select(leaves, names) == (1, 2)
    assert SemanticSegmentationTask(output="masks_queries_logits").select(leaves, names) == (2,)


@pytest.mark.parametrize("settings", [{"mask_weight": 0}, {"mask_weight": "x"}, {"queries": 1}, {"output": 3}])
def test_settings_that_mean_nothing_are_refused(settings: dict[str, object]) -> None:
    ((name, value),) = settings.items()
    with pytest.raises(TaskError, match=f"{name} is {value!r}: give"):
        SemanticSegmentationTask(**settings)  # type: ignore[arg-type]


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
