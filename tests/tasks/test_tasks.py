"""The registry, and records of tasks."""

from __future__ import annotations

import pytest

from autoq.cli.options import TASK_HELP
from autoq.errors import InputError, SpaceError, TaskError
from autoq.runs.proxy_check.run import make_check_settings
from autoq.tasks import (
    CLASSIFICATION,
    TASKS,
    DenseTask,
    DetectionTask,
    make_task,
    read_settings,
    task_from_record,
    task_to_record,
)


def test_tasks_by_name() -> None:
    assert list(TASKS) == ["classification", "dense", "detection", "instance-segmentation", "semantic-segmentation"]
    assert make_task("classification") == CLASSIFICATION
    with pytest.raises(
        InputError, match=r"detection, instance-segmentation, semantic-segmentation\. Did you mean 'dense'"
    ):
        make_task("dens")
    with pytest.raises(TaskError, match=r"task 'dense' has no setting 'varianse', it has output, variance\. Did you"):
        make_task("dense", varianse=1.0)


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        ([], {}),
        (["nms_iou=0.5", " most_objects = 300 "], {"nms_iou": 0.5, "most_objects": 300}),
        (["scores=sigmoid", "nms_iou=none", "queries=True"], {"scores": "sigmoid", "nms_iou": None, "queries": True}),
        (["output=a=b"], {"output": "a=b"}),
    ],
)
def test_settings_as_they_are_typed(texts: list[str], expected: dict[str, object]) -> None:
    found = read_settings(texts)
    assert found == expected
    assert [type(value) for value in found.values()] == [type(value) for value in expected.values()]


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["nms_iou"], "cannot read the task option 'nms_iou': write it as NAME=VALUE"),
        (["=1"], "cannot read the task option '=1'"),
        (["nms_iou="], "cannot read the task option 'nms_iou='"),
        (["nms_iou=1", "nms_iou=2"], "the task option 'nms_iou' is given twice"),
    ],
)
def test_settings_that_cannot_be_read(texts: list[str], message: str) -> None:
    with pytest.raises(TaskError, match=message):
        read_settings(texts)


def test_settings_of_a_run_are_those_of_its_task() -> None:
    settings = make_check_settings(task="detection", task_options={"nms_iou": 0.5, "most_objects": 300})
    assert settings.make_task() == DetectionTask(nms_iou=0.5, most_objects=300)
    again = type(settings).model_validate_json(settings.model_dump_json())
    assert again == settings
    assert type(again.task_options["most_objects"]) is int
    with pytest.raises(
        SpaceError, match=r"--task-option: task 'detection' has no setting 'nms_uoi', .* mean 'nms_iou'"
    ):
        make_check_settings(task="detection", task_options={"nms_uoi": 0.5})
    with pytest.raises(SpaceError, match="--task-option: nms_iou is 'x': give a number above 0"):
        make_check_settings(task="detection", task_options={"nms_iou": "x"})


def test_the_help_of_the_command_line_names_every_task() -> None:
    assert all(name in TASK_HELP for name in TASKS)


def test_proxies_are_checked_on_accuracies_only() -> None:
    assert make_check_settings(task="detection").task == "detection"
    with pytest.raises(SpaceError, match="the task 'dense' has no accuracy in percent"):
        make_check_settings(task="dense")


def test_plain_classification_leaves_no_record() -> None:
    assert task_to_record(CLASSIFICATION) is None
    assert task_from_record(None) == CLASSIFICATION
    assert task_to_record(make_task("classification", output="logits")) == {
        "name": "classification",
        "output": "logits",
    }
    assert task_to_record(DenseTask(variance=0.1)) == {"name": "dense", "variance": 0.1}
    with pytest.raises(TaskError, match="unknown task ''"):
        task_from_record({"output": "depth"})
