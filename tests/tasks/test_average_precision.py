from __future__ import annotations

import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from autoq.errors import TaskError
from autoq.tasks import DetectionTask, InstanceSegmentationTask
from tests.tasks.objects import SIZE, found, objects

ONE, TWO = objects((2, 3, 12, 13)), objects((2, 3, 12, 13), (20, 0, 40, 20))


def test_all_objects_found_is_a_precision_of_one() -> None:
    there = objects((2, 3, 12, 13), (20, 0, 40, 20), labels=(1, 0))
    meter = DetectionTask(scores="sigmoid").meter()
    meter.add(found(there, 5, 2), [there])
    assert list(meter.metrics().values()) == pytest.approx([100, 100, 100, 100])
    wrong = DetectionTask(scores="sigmoid").meter()
    wrong.add(found(replace(there, labels=there.labels[::-1].copy()), 5, 2), [there])
    assert list(wrong.metrics().values()) == pytest.approx([0, 0, 0, 0])


def test_a_box_of_less_overlap_counts_at_low_thresholds_alone() -> None:
    there = objects((0, 0, 10, 10), labels=(0,))
    meter = DetectionTask(scores="sigmoid").meter()
    meter.add(found(objects((0, 0, 10, 6), labels=(0,), masks=False), 3, 1)[:2], [there])
    metrics = meter.metrics()
    assert list(metrics) == ["box_ap_percent", "box_ap50_percent"]  # the model has no masks
    assert metrics["box_ap50_percent"] == pytest.approx(100)
    assert 10 <= metrics["box_ap_percent"] <= 30  # IoU 0.6: of ten thresholds two or three


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "faster_coco_eval", None)
    with pytest.raises(TaskError, match=r"pip install 'autoq\[detection\]'"):
        DetectionTask(scores="sigmoid").meter().add(found(ONE, 2, 1), [ONE])


def test_labels_of_another_kind_are_refused() -> None:
    meter = DetectionTask(scores="sigmoid").meter()
    with pytest.raises(TaskError, match="labels of detectors are the objects"):
        meter.add(found(ONE, 2, 1), torch.zeros(1))
    meter.add(found(ONE, 2, 1), [ONE])
    with pytest.raises(TaskError, match="some images have masks and some have none"):
        meter.add(found(ONE, 2, 1), [objects((0, 0, 4, 4), masks=False)])


def test_precision_of_single_classes() -> None:
    """Class 0 is found, class 1 is not, of class 2 there is no object."""
    there = objects((2, 3, 12, 13), (20, 0, 40, 20), labels=(0, 1))
    logits, boxes, masks = found(there, 3, 3)
    logits[0, 1, 1] = logits[0, 1].min()
    logits[0, 2, 2] = 6.0
    meter = DetectionTask(scores="sigmoid").meter()
    meter.add((logits, boxes, masks), [there])
    assert meter.accuracy().per_class == {}
    accuracy = meter.accuracy(per_class=True)
    assert accuracy.metrics["box_ap_percent"] == pytest.approx(50)
    names = ["box_ap_percent", "mask_ap_percent"]
    assert accuracy.per_class == {
        0: pytest.approx(dict.fromkeys(names, 100)),
        1: pytest.approx(dict.fromkeys(names, 0)),
    }
    assert [metric.name for metric in DetectionTask.class_metrics] == names
    meter.add(found(there, 3, 3), [there])  # the figures are those of all images so far
    assert meter.accuracy().metrics["box_ap_percent"] > 60


def test_a_model_of_masks_alone_is_measured_by_them() -> None:
    there = objects((2, 3, 12, 13), (20, 0, 40, 20), labels=(1, 0))
    logits, _, masks = found(there, 3, 2)
    logits = torch.cat([logits, torch.zeros(1, 3, 1)], 2)
    meter = InstanceSegmentationTask(scores="softmax").meter()
    meter.add((logits, masks), [there])
    assert meter.metrics() == pytest.approx({"mask_ap_percent": 100, "mask_ap50_percent": 100})
    with pytest.raises(TaskError, match="objects have no masks"):
        InstanceSegmentationTask(scores="softmax").meter().add((logits, masks), [replace(there, masks=None)])


def test_objects_are_found_again_where_the_image_lies_in_the_input() -> None:
    """The image, twice as wide as high, takes up the middle half of the input's height."""
    there = replace(objects((2, 3, 12, 13), (20, 4, 40, 12), labels=(1, 0)), content=(0.0, 0.25, 1.0, 0.75))
    logits, boxes, masks = found(there, 3, 2)
    boxes[..., 1::2] = boxes[..., 1::2] / 2
    boxes[..., 1] += 0.25
    band = torch.full((1, 3, 2 * SIZE[0], SIZE[1]), -6.0)
    band[:, :, SIZE[0] // 2 : SIZE[0] // 2 + SIZE[0]] = masks
    for outputs, whole in (((logits, boxes, band), False), (found(there, 3, 2), True)):
        meter = DetectionTask(scores="sigmoid").meter()
        meter.add(outputs, [there])
        reached = meter.metrics()
        assert (reached["box_ap_percent"] < 50) == whole
        assert (reached["mask_ap_percent"] < 50) == whole
        if not whole:
            assert list(reached.values()) == pytest.approx([100] * 4)


def test_images_without_objects_come_first() -> None:
    """Only whether there are masks tells what is measured, not whether there is an object."""
    none = replace(objects(), masks=None)
    boxes_alone = DetectionTask(scores="sigmoid").meter()
    for there in (none, replace(TWO, masks=None)):
        boxes_alone.add(found(there, 3, 2), [there])
    assert boxes_alone.metrics() == pytest.approx({"box_ap_percent": 100, "box_ap50_percent": 100})
    empty = DetectionTask(scores="sigmoid").meter()
    empty.add(found(objects(), 3, 2), [objects()])
    assert set(empty.metrics().values()) == {0.0}
    assert np.array_equal(list(empty.per_class()), [])
