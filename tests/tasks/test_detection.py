from __future__ import annotations

import pytest
import torch
from torch import Tensor

from autoq.errors import TaskError
from autoq.tasks import DetectionTask, Outputs
from tests.contracts.tasks import Shapes, TaskContract
from tests.tasks.objects import found, objects


class _DetectorContract(TaskContract):
    def outputs(self, case: Shapes, images: int = 4, seed: int = 0) -> Outputs:
        logits, boxes, *masks = super().outputs(case, images, seed)
        return (logits, 0.5 + 0.4 * boxes.sigmoid(), *masks)


FOUR = [objects((2, 3, 12, 13)), objects((2, 3, 12, 13), (20, 0, 40, 20)), objects(), objects((0, 0, 5, 5))]


class TestIndependentClasses(_DetectorContract):
    task = DetectionTask(scores="sigmoid")
    shapes = [((3, 2), (3, 4)), ((2, 3), (2, 4), (2, 3, 2))]  # noqa: RUF012
    labels = {0: FOUR, 1: FOUR}  # noqa: RUF012


class TestExclusiveClasses(_DetectorContract):
    task = DetectionTask(scores="softmax", box_weight=0.5, mask_weight=3.0)
    shapes = [((2, 3), (2, 4), (2, 2, 2))]  # noqa: RUF012
    labels = {0: FOUR}  # noqa: RUF012


def test_a_box_counts_as_far_as_there_is_an_object() -> None:
    boxes = torch.full((1, 2, 4), 0.5, dtype=torch.float64)
    moved = boxes + torch.tensor([0.02, 0.0, 0.0, 0.0])
    by_logit = []
    for logit in (-2.0, 1.0):
        logits = torch.tensor([[[logit, -30.0], [-30.0, -30.0]]], dtype=torch.float64)
        sigmoid = float(DetectionTask(scores="sigmoid").divergence((logits, boxes), (logits, moved)))
        none = torch.zeros(1, 2, 1, dtype=torch.float64)
        softmax = float(
            DetectionTask(scores="softmax").divergence(
                (torch.cat([logits, none], 2), boxes), (torch.cat([logits, none], 2), moved)
            )
        )
        assert sigmoid == pytest.approx(softmax)  # one class against none
        by_logit.append(sigmoid)
    x = 0.02 / 0.05
    kl = x + torch.exp(torch.tensor(-x, dtype=torch.float64)) - 1
    expected = torch.sigmoid(torch.tensor([-2.0, 1.0], dtype=torch.float64)) * kl / 2  # a mean over two queries
    assert by_logit == pytest.approx(expected.tolist())


def test_of_boxes_that_overlap_the_likelier_is_kept() -> None:
    logits = torch.tensor([[[3.0], [2.0], [1.0]]])
    boxes = torch.tensor([[[0.5, 0.5, 0.4, 0.4], [0.52, 0.5, 0.4, 0.4], [0.1, 0.1, 0.1, 0.1]]])
    (kept,) = DetectionTask(scores="sigmoid").detections((logits, boxes))
    assert kept.scores.tolist() == pytest.approx(logits.sigmoid()[0, [0, 2], 0].tolist())
    assert kept.boxes is not None
    assert kept.boxes[1].tolist() == pytest.approx([0.05, 0.05, 0.15, 0.15])
    (all_of_them,) = DetectionTask(scores="sigmoid", nms_iou=1.0).detections((logits, boxes))
    assert len(all_of_them.scores) == 3


@pytest.mark.parametrize(("classes", "scores"), [(3, "sigmoid"), (2, "softmax"), (None, "sigmoid")])
def test_scores_follow_from_the_number_of_classes(classes: int | None, scores: str) -> None:
    outputs = (torch.zeros(1, 2, 3), torch.zeros(1, 2, 4))
    task = DetectionTask().adapted(outputs, classes)
    assert task.scores == scores
    assert task.adapted(outputs, 17) == task
    assert task.to_json() == {"name": "detection", "scores": scores, "box_weight": 1.0, "mask_weight": 1.0}


@pytest.mark.parametrize(
    ("outputs", "message"),
    [
        ((torch.zeros(1, 2, 9), torch.zeros(1, 2, 4)), "has 3 classes, but logits of 9"),
        ((torch.zeros(1, 2, 3), torch.zeros(1, 5, 4)), r"model returns \(1, 2, 3\), \(1, 5, 4\)"),
        ((torch.zeros(1, 2, 3), torch.zeros(1, 2, 4), torch.zeros(1, 7, 2, 2)), "model returns"),
    ],
)
def test_outputs_of_another_kind_are_refused(outputs: tuple[Tensor, ...], message: str) -> None:
    with pytest.raises(TaskError, match=message):
        DetectionTask().adapted(outputs, 3)


def test_leaves_are_found_by_name() -> None:
    leaves = (torch.zeros(1), torch.zeros(2, 3, 4), torch.zeros(2, 3, 5), torch.zeros(2, 3, 4, 4))
    assert DetectionTask().select(leaves, ("loss", "pred_boxes", "logits", "pred_masks")) == (2, 1, 3)
    assert DetectionTask().select(leaves[:3], ("loss", "pred_boxes", "logits")) == (2, 1)
    with pytest.raises(TaskError, match=r"'pred_boxes', but the model returns 'logits'"):
        DetectionTask().select(leaves[:1], ("logits",))
    with pytest.raises(TaskError, match="the model returns one tensor without a name"):
        DetectionTask().select(leaves[:1], ("",))


def test_a_model_that_predicts_a_set_keeps_boxes_that_overlap() -> None:
    outputs = (torch.tensor([[[3.0], [2.0]]]), torch.full((1, 2, 4), 0.5))
    for others, count in (((), 1), (("last_hidden_state",), 2), (("decoder.last_hidden_state",), 2)):
        task = DetectionTask().adapted(outputs, 1, ("logits", "pred_boxes", *others))
        assert [len(each.scores) for each in task.detections(outputs)] == [count]
    assert DetectionTask().adapted(outputs, 1, ("pred_logits", "pred_boxes")).nms_iou == 1
    chosen = DetectionTask(nms_iou=0.7).adapted(outputs, 1, ("logits", "pred_boxes", "last_hidden_state"))
    assert chosen.nms_iou == 0.7
    assert [len(each.scores) for each in chosen.detections(outputs)] == [1]


def test_scores_and_numbers_of_what_is_found() -> None:
    logits, boxes = torch.linspace(-4, 4, 200).view(1, 200, 1), torch.rand(1, 200, 4)
    for settings, count in (({}, 100), ({"most_objects": 150}, 150), ({"most_objects": 7}, 7)):
        task = DetectionTask(scores="sigmoid", nms_iou=1, least_score=0.0, **settings)
        (found_,) = task.detections((logits, boxes))
        assert found_.scores.tolist() == logits.sigmoid().flatten().flip(0)[:count].tolist()
    (found_,) = DetectionTask(scores="sigmoid", nms_iou=1, least_score=0.9).detections((logits, boxes))
    assert len(found_.scores) == int((logits.sigmoid() >= 0.9).sum())


@pytest.mark.parametrize(
    "settings",
    [
        *({"scores": "tanh"}, {"box_weight": 0.0}, {"nms_iou": "x"}, {"nms_iou": 0}, {"least_score": 1.0}),
        *({"most_objects": 0}, {"most_objects": 2.5}, {"most_objects": True}, {"mask_weight": None}),
    ],
)
def test_settings_that_mean_nothing_are_refused(settings: dict[str, object]) -> None:
    with pytest.raises(TaskError, match=str(next(iter(settings.values())))):
        DetectionTask(**settings)  # type: ignore[arg-type]


def test_masks_in_boxes_are_measured_where_their_boxes_are() -> None:
    there = objects((2, 3, 12, 13), (20, 0, 40, 20))
    logits, boxes, _ = found(there, 3, 2)
    masks = torch.full((1, 3, 7, 7), 4.0)  # full boxes
    task = DetectionTask(scores="sigmoid")
    assert task.adapted((logits, boxes, masks), 2, ("logits", "pred_boxes", "pred_masks")) == task
    in_boxes = task.adapted((logits, boxes, masks), 2, ("out.logits", "out.pred_boxes", "out.pred_box_masks"))
    assert in_boxes == DetectionTask(scores="sigmoid", mask_frame="box")
    values = {}
    for each in (task, in_boxes):
        meter = each.meter()
        meter.add((logits, boxes, masks), [there])
        values[each.mask_frame] = meter.metrics()["mask_ap_percent"]
    assert values["box"] == pytest.approx(100)
    assert values["image"] < 50
