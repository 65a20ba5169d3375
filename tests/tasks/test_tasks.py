"""The registry, and records of tasks."""

from __future__ import annotations

import pytest

from autoq.cli.options import TASK_HELP
from autoq.errors import InputError, SpaceError, TaskError
from autoq.runs.proxy_check.run import make_check_settings
from autoq.tasks import CLASSIFICATION, TASKS, DenseTask, make_task, task_from_record, task_to_record


def test_tasks_by_name() -> None:
    assert list(TASKS) == ["classification", "dense", "detection", "instance-segmentation", "semantic-segmentation"]
    assert make_task("classification") == CLASSIFICATION
    with pytest.raises(
        InputError, match=r"detection, instance-segmentation, semantic-segmentation\. Did you mean 'dense'"
    ):
        make_task("dens")
    with pytest.raises(TaskError, match=r"task 'dense' has no setting 'varianse', it has output, variance\. Did you"):
        make_task("dense", varianse=1.0)


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
