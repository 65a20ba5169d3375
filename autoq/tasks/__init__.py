"""Tasks: what a model's output means, one a file.

To add a task, write a frozen dataclass derived from :class:`BaseTask` in a file of its own and add it to ``TASKS``
below; the contract tests in ``tests/contracts/tasks.py`` say what it must fulfil.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import fields, replace
from typing import Any

from autoq.errors import TaskError
from autoq.registry import Registry
from autoq.tasks._base import BaseTask, Probes
from autoq.tasks._meter import Accuracy, BaseMeter, Labels, Outputs
from autoq.tasks.classification import CLASSIFICATION, ClassificationTask
from autoq.tasks.dense import DenseTask
from autoq.tasks.detection import DetectionTask
from autoq.tasks.instance_segmentation import InstanceSegmentationTask
from autoq.tasks.semantic_segmentation import SemanticSegmentationTask
from autoq.units import Metric
from autoq.validation import did_you_mean, number_or_text

TASKS: Registry[type[BaseTask]] = Registry(
    "task",
    TaskError,
    {
        cls.name: cls
        for cls in (ClassificationTask, DenseTask, DetectionTask, InstanceSegmentationTask, SemanticSegmentationTask)
    },
)
"""Task classes by name, which ``--task`` takes."""


def make_task(name: str, **settings: Any) -> BaseTask:
    """Return a task by its name, with settings other than its defaults.

    >>> make_task("dense", output="depth")
    DenseTask(output='depth', variance=None)

    Raises:
        TaskError: there is no such task, or it has no such setting or value.
    """
    return with_settings(TASKS.lookup(name)(), settings)


def with_settings(task: BaseTask, settings: Mapping[str, Any]) -> BaseTask:
    """Return a task with some settings changed.

    >>> with_settings(DetectionTask(), {"nms_iou": 0.5, "most_objects": 300}).nms_iou
    0.5

    Raises:
        TaskError: it has no such setting or value.
    """
    known = [field.name for field in fields(task)]
    for key in settings:
        if key not in known:
            there = ", ".join(known)
            raise TaskError(f"task {task.name!r} has no setting {key!r}, it has {there}.{did_you_mean(key, known)}")
    return replace(task, **settings)


def read_settings(texts: Iterable[str]) -> dict[str, Any]:
    """Read settings as they are given on a command line: numbers, ``none``, ``true``, ``false``, or words.

    >>> read_settings(["nms_iou=0.5", "most_objects=300", "scores=sigmoid"])
    {'nms_iou': 0.5, 'most_objects': 300, 'scores': 'sigmoid'}

    Args:
        texts: ``NAME=VALUE``.

    Raises:
        TaskError: a text is something else, or a setting is given twice.
    """
    settings: dict[str, Any] = {}
    for text in texts:
        name, equals, value = (part.strip() for part in text.partition("="))
        if not (name and equals and value):
            raise TaskError(f"cannot read the task option {text!r}: write it as NAME=VALUE, such as nms_iou=0.5")
        if name in settings:
            raise TaskError(f"the task option {name!r} is given twice: give it once")
        settings[name] = _WORDS[value.lower()] if value.lower() in _WORDS else number_or_text(value)
    return settings


_WORDS = {"none": None, "true": True, "false": False}


def task_to_record(task: BaseTask) -> dict[str, Any] | None:
    """Return what files say of a task: its name and its settings, or nothing for plain classification."""
    return None if task == CLASSIFICATION else task.to_json()


def task_from_record(record: Mapping[str, Any] | None) -> BaseTask:
    """Return the task that a file names; see :func:`task_to_record`.

    >>> task_from_record({"name": "dense", "variance": 0.25}).variance
    0.25

    Raises:
        TaskError: there is no such task, or it has no such setting or value.
    """
    return CLASSIFICATION if record is None else make_task(**{"name": "", **record})


__all__ = [
    "CLASSIFICATION",
    "TASKS",
    "Accuracy",
    "BaseMeter",
    "BaseTask",
    "ClassificationTask",
    "DenseTask",
    "DetectionTask",
    "InstanceSegmentationTask",
    "Labels",
    "Metric",
    "Outputs",
    "Probes",
    "SemanticSegmentationTask",
    "make_task",
    "read_settings",
    "task_from_record",
    "task_to_record",
    "with_settings",
]
