"""Metrics on labelled images, added up batch by batch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from autoq.errors import TaskError

Outputs = tuple[Tensor, ...]
"""The leaves of a model's output that a task compares, each of shape (N, ...) for N images."""

Labels = Tensor | Sequence[Any]
"""Of N images: a tensor along its leading axis, or one object for each of them."""


@dataclass(frozen=True)
class Accuracy:
    """A task's metrics on labelled images.

    Attributes:
        metrics: by :attr:`Metric.name`.
        images: how many they are measured on.
        per_class: metrics of single classes, by the model's output and by name; empty where a task has none, or they
            were not asked for.
    """

    metrics: Mapping[str, float]
    images: int
    per_class: Mapping[int, Mapping[str, float]] = field(default_factory=dict)


class BaseMeter(ABC):
    """Adds up a task's metrics, batch by batch.

    Attributes:
        images: how many have been added.
    """

    images: int = 0

    @abstractmethod
    def add(self, outputs: Outputs, labels: Labels) -> None:
        """Add one batch.

        Args:
            outputs: the compared outputs of N images.
            labels: of those images.

        Raises:
            TaskError: the labels do not fit the outputs.
        """

    @abstractmethod
    def metrics(self) -> dict[str, float]:
        """Return the metrics over all images so far, of which there is at least one."""

    def per_class(self) -> dict[int, dict[str, float]]:
        """Return metrics of single classes over all images so far, by the model's output; empty if there are none."""
        return {}

    def accuracy(self, per_class: bool = False) -> Accuracy:
        """Return the metrics and the number of images.

        Args:
            per_class: whether to return those of single classes, too, which may take as long again.

        Raises:
            ValueError: no batch was added.
        """
        if not self.images:
            raise ValueError("no images to measure accuracy on")
        return Accuracy(self.metrics(), self.images, self.per_class() if per_class else {})


def as_tensor(labels: Labels) -> Tensor:
    """Return the labels of a task that takes tensors.

    Raises:
        TaskError: they are something else.
    """
    if not isinstance(labels, Tensor):
        raise TaskError(f"labels are a tensor with an entry for each image, not {type(labels).__name__}")
    return labels
