from __future__ import annotations

import pytest
import torch

from autoq.errors import TaskError
from autoq.tasks import CLASSIFICATION, DetectionTask, InstanceSegmentationTask, Outputs
from tests.contracts.tasks import Shapes, TaskContract
from tests.tasks.objects import objects

FOUR = [objects((2, 3, 12, 13)), objects((2, 3, 12, 13), (20, 0, 40, 20)), objects(), objects((0, 0, 5, 5))]
LEAVES = (torch.zeros(1, 5, 4), torch.zeros(1, 5, 8, 8), torch.zeros(1, 9, 3))
NAMES = ("class_queries_logits", "masks_queries_logits", "encoder_last_hidden_state")


class TestInstanceSegmentation(TaskContract):
    task = InstanceSegmentationTask(scores="softmax")
    shapes = [((2, 3), (2, 2, 2)), ((2, 3), (2, 2, 2), (2, 4))]  # noqa: RUF012
    labels = {0: FOUR, 1: FOUR}  # noqa: RUF012

    def outputs(self, case: Shapes, images: int = 4, seed: int = 0) -> Outputs:
        logits, masks, *boxes = super().outputs(case, images, seed)
        return (logits, masks, *(0.5 + 0.4 * each.sigmoid() for each in boxes))


def test_it_is_detection_with_masks_first() -> None:
    masks, boxes = InstanceSegmentationTask(scores="sigmoid"), DetectionTask(scores="sigmoid")
    logits, predicted, pixels = torch.randn(3, 2, 4, 3, generator=torch.Generator().manual_seed(0))
    outputs = (logits, 0.5 + 0.1 * predicted[..., :1].expand(2, 4, 4), pixels.unsqueeze(3).expand(2, 4, 3, 2))
    worse = tuple(leaf + 0.01 for leaf in outputs)
    reordered = [(first, third, second) for first, second, third in (outputs, worse)]
    torch.testing.assert_close(masks.divergence(*reordered), boxes.divergence(outputs, worse))
    assert set(masks.metrics) == set(boxes.metrics)
    assert (masks.main_metric.name, boxes.main_metric.name) == ("mask_ap_percent", "box_ap_percent")


def test_masks_are_required_and_boxes_are_not() -> None:
    task = InstanceSegmentationTask()
    assert task.select(LEAVES, NAMES) == (0, 1)
    assert task.adapted(LEAVES[:2], 3).scores == "softmax"
    with pytest.raises(TaskError, match=r"'masks_queries_logits', but the model returns 'logits', 'pred_boxes'"):
        task.select(LEAVES[:2], ("logits", "pred_boxes"))
    with pytest.raises(TaskError, match="'pred_boxes', but the model returns 'class_queries_logits'"):
        DetectionTask().select(LEAVES, NAMES)
    with pytest.raises(TaskError, match=r"returns masks of objects.*use --task instance-segmentation"):
        CLASSIFICATION.select(LEAVES, NAMES)


def test_of_overlapping_masks_none_is_left_out_and_a_vague_one_counts_less() -> None:
    logits = torch.tensor([[[4.0, 0.0], [4.0, 0.0], [4.0, 0.0]]])
    masks = torch.full((1, 3, 2, 2), -9.0)
    masks[0, 0, 0], masks[0, 1, 0] = 9.0, 1.0
    (kept,) = InstanceSegmentationTask(scores="softmax").detections((logits, masks))
    sure = float(logits.softmax(2)[0, 0, 0])
    vague = sure * float(torch.tensor(1.0).sigmoid())
    assert kept.scores.tolist() == pytest.approx([sure * float(torch.tensor(9.0).sigmoid()), vague])
    assert kept.boxes is None
    assert kept.mask_logits is not None
    assert torch.equal(kept.mask_logits, masks[0, :2])  # the third has no pixel
