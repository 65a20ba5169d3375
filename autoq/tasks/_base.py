"""What every task says of a model's output."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, ClassVar, Literal, Self, TypeGuard

from torch import Tensor

from autoq.errors import TaskError
from autoq.tasks._meter import BaseMeter, Labels, Outputs
from autoq.tasks.heads import BaseHead, CategoricalHead, HeadProbes
from autoq.units import Metric
from autoq.validation import did_you_mean

LabelKind = Literal["class", "tensor", "objects", "masks", "map"]
"""What a label is: see ``BaseTask.labels``."""

_SEED_STEP = 1_000_003
"""Between the seeds of the heads of one task, so that their probes are independent."""


class Probes:
    """Draws vectors whose outer products have the Fisher information F of an image's output as their mean."""

    def __init__(self, task: BaseTask, count: int, seed: int, first: int = 0) -> None:
        """Draw ``count`` vectors for each image, independent of each other between the heads of the task."""
        self._task = task
        self._heads = [
            HeadProbes(head, count, seed + _SEED_STEP * number, first) for number, head in enumerate(task.heads)
        ]

    def draw(self, outputs: Outputs) -> Outputs:
        """Draw K vectors for each image, image after image, so that it does not matter how they are batched.

        Args:
            outputs: the compared outputs in full precision, each of shape (N, ...).

        Returns:
            For each of them a tensor of shape (K, N, ...), of its type and on its device.
        """
        parts = zip(self._heads, outputs, self._task.importances(outputs), strict=False)
        return tuple(head.draw(leaf, importance) for head, leaf, importance in parts)


@dataclass(frozen=True)
class BaseTask(ABC):
    """What a model's output means: the probability distribution that it stands for, and what is measured on labels.

    A task reads an output z as the parameters of a distribution p(y | z) of the answer y. An output ẑ is worse than z
    by the divergence KL(p(y | z) ‖ p(y | ẑ)), in nats, whatever the task; to second order that is ½ eᵀ F e for
    e = ẑ − z and F the Fisher information of p at z (Martens, JMLR 2020). An image's divergence is a mean over the
    positions of its output (tokens, pixels, queries), not a sum, so that it does not grow with the resolution.

    Each compared leaf has a head (:mod:`autoq.tasks.heads`), which gives the divergence and F of its distribution; F of
    several heads is block-diagonal.

    A subclass is a frozen dataclass whose fields are the task's settings, each with a default and a JSON value.

    Attributes:
        output: dotted name of the leaf of the model's output that the first head describes; None: the task chooses.
        name: of the task.
        metrics: on labelled images, the main one first.
        class_metrics: of single classes, likewise.
        element: what one number of the output is called.
        divergence_in_words: what :meth:`divergence` is, for readers of a report.
        labels: what a label is: the index of a ``class``, a ``tensor`` of the output's shape, the ``objects`` on the
            image, those with their ``masks``, or a ``map`` of classes.
        has_agreement: whether two outputs can say the same: whether :meth:`agreement` tells.
        has_right_answers: whether an answer is simply right or wrong: whether :meth:`correct` tells.
    """

    output: str | None = None

    name: ClassVar[str]
    metrics: ClassVar[tuple[Metric, ...]]
    class_metrics: ClassVar[tuple[Metric, ...]] = ()
    element: ClassVar[str]
    divergence_in_words: ClassVar[str]
    labels: ClassVar[LabelKind]
    has_agreement: ClassVar[bool] = False
    has_right_answers: ClassVar[bool] = False

    def __post_init__(self) -> None:
        """Check the settings; to be called by subclasses that have others.

        Raises:
            TaskError: a value cannot be used.
        """
        if not (self.output is None or isinstance(self.output, str)):
            raise TaskError(f"output is {self.output!r}: give the name of a part of the model's output")

    @property
    @abstractmethod
    def heads(self) -> tuple[BaseHead, ...]:
        """The heads of the compared leaves, in their order; those that are optional come last."""

    @property
    def main_metric(self) -> Metric:
        """The metric that tables and pictures show."""
        return self.metrics[0]

    def select(self, leaves: Sequence[object], names: Sequence[str] = ()) -> tuple[int, ...]:
        """Say which leaves of the model's output are compared.

        Args:
            leaves: of the output, tensors and others.
            names: dotted names of the tensors among them (``logits``, ``boxes.0``; empty for an output that is one
                tensor); where there are none, tensors are named by their numbers.

        Returns:
            Positions in ``leaves``, one for each head but optional ones that the model lacks: the leaf named by
            :attr:`output` for the first head if that is given, else the first of its ``leaves`` that there is; for a
            task with one head, else the first floating-point tensor.

        Raises:
            TaskError: no leaf has the name, or none is a floating-point tensor, or a head has no leaf.
        """
        tensors = [(position, leaf) for position, leaf in enumerate(leaves) if isinstance(leaf, Tensor)]
        known = names or [str(number) for number in range(len(tensors))]
        floating = {
            name: position for name, (position, leaf) in zip(known, tensors, strict=True) if leaf.is_floating_point()
        }
        if not floating:
            raise TaskError("the model returns no floating-point tensor, so that there is nothing to compare")
        if self.output is not None and self.output not in floating:
            there = ", ".join(repr(name) for name in floating)
            raise TaskError(
                f"the model has no output {self.output!r} to compare, there is {there}."
                f"{did_you_mean(self.output, floating)}"
            )
        chosen = [self.output if self.output is not None else self._leaf(self.heads[0], list(floating))]
        chosen += [self._leaf(head, list(floating)) for head in self.heads[1:]]
        return tuple(floating[name] for name in chosen if name is not None)

    def _leaf(self, head: BaseHead, names: Sequence[str]) -> str | None:
        """Return the name of the leaf that a head describes; None for an optional one that there is not."""
        found = next((name for name in head.leaves if name in names), None)
        if found is not None or head.optional:
            return found
        if len(self.heads) == 1:
            return names[0]
        there = ", ".join(map(repr, names)) if any(names) else "one tensor without a name"
        raise TaskError(
            f"the task {self.name!r} compares an output called {' or '.join(map(repr, head.leaves))}, but the model "
            f"returns {there}: choose another task, or name the outputs so"
        )

    def outputs_of(self, leaves: Sequence[object], names: Sequence[str] = ()) -> Outputs:
        """Return the compared leaves of a model's output; see :meth:`select`."""
        chosen = (leaves[position] for position in self.select(leaves, names))
        return tuple(leaf for leaf in chosen if isinstance(leaf, Tensor))

    def fitted(self, outputs: Iterable[Outputs]) -> Self:
        """Return the task with what it has to know of full precision; itself, if that is nothing or known already.

        Args:
            outputs: the compared outputs of the calibration images in full precision, batch by batch; not read unless
                they are needed.

        Raises:
            TaskError: the outputs leave it undefined.
        """
        del outputs
        return self

    def adapted(self, outputs: Outputs, num_classes: int | None, names: Sequence[str] = ()) -> Self:
        """Return the task with what it has to know of the model; itself, if that is nothing or known already.

        Args:
            outputs: the compared outputs of any image.
            num_classes: that the model says it has; None: it does not say.
            names: of all outputs of the model, where they have any.

        Raises:
            TaskError: the outputs are not such as the task compares.
        """
        del outputs, num_classes, names
        return self

    def num_classes(self, outputs: Outputs) -> int:
        """Return how many classes there are, by the outputs of any image: the length of the first one's last axis."""
        return outputs[0].shape[-1]

    def importances(self, outputs: Outputs) -> tuple[Tensor | None, ...]:
        """Return the importance of the positions of each head, given the outputs in full precision; None: 1."""
        return (None,) * len(outputs)

    def divergence(self, reference: Outputs, quantized: Outputs) -> Tensor:
        """Return KL(reference ‖ quantized) of each image in nats, in the outputs' precision. Differentiable.

        Args:
            reference: outputs in full precision, each of shape (N, ...).
            quantized: of the same shapes.

        Returns:
            Of shape (N,). Rounding may leave it a little below zero.
        """
        parts = zip(self.heads, reference, quantized, self.importances(reference), strict=False)
        first, *others = (head.divergence(full, other, weight) for head, full, other, weight in parts)
        return sum(others, start=first)

    def loss(self, output: Outputs, target: Outputs) -> Tensor:
        """Return the mean divergence of a batch from its target in nats, in float32: what training minimises."""
        return self.divergence(_float(target), _float(output)).mean()

    def fisher_product(self, outputs: Outputs, change: Outputs, temperature: float = 1.0) -> Outputs:
        """Return F Δ for each image, F the Hessian of its divergence at the outputs.

        Args:
            outputs: in full precision, each of shape (N, ...).
            change: Δ, of the same shapes.
            temperature: T, for distributions over classes: F is T² times the Hessian for logits divided by T, which
                lets classes count that are unlikely in full precision (APHQ-ViT; Wu et al., CVPR 2025).

        Returns:
            Of the shapes, types and devices of ``outputs``.
        """
        parts = zip(self.heads, outputs, change, self.importances(outputs), strict=False)
        return tuple(
            head.fisher_product(leaf, delta, temperature, importance) for head, leaf, delta, importance in parts
        )

    def probes(self, count: int, seed: int, first: int = 0) -> Probes:
        """Return what draws ``count`` vectors an image with outer products of mean F, as in Hutchinson's estimator.

        Args:
            count: K.
            seed: of the vectors.
            first: number of the first image.
        """
        return Probes(self, count, seed, first)

    def has_one_class(self, outputs: Outputs) -> bool:
        """Tell whether a head is a distribution over one class, whose probability is 1 whatever the output."""
        parts = zip(self.heads, outputs, strict=False)
        return any(isinstance(head, CategoricalHead) and head.classes(leaf) < 2 for head, leaf in parts)

    def agreement(self, reference: Outputs, quantized: Outputs) -> Tensor | None:
        """Return the share of each image's positions at which both say the same, of shape (N,); None if undefined."""
        del reference, quantized
        return None

    def correct(self, outputs: Outputs, labels: Labels) -> Tensor:
        """Tell for each image whether its answer is right.

        Args:
            outputs: the compared outputs of N images.
            labels: of those images.

        Returns:
            Booleans of shape (N,).

        Raises:
            TaskError: answers of this task are not right or wrong but near or far.
        """
        del outputs, labels
        raise TaskError(f"answers of the task {self.name!r} are not simply right or wrong: use classification")

    @abstractmethod
    def meter(self) -> BaseMeter:
        """Return what adds up :attr:`metrics`."""

    def to_json(self) -> dict[str, Any]:
        """Return the name and the settings that differ from their defaults."""
        defaults = {field.name: field.default for field in fields(self)}
        settings = {key: value for key, value in asdict(self).items() if value != defaults[key]}
        return {"name": self.name, **settings}


def _float(outputs: Outputs) -> Outputs:
    return tuple(output.float() for output in outputs)


def is_number(value: object) -> TypeGuard[float]:
    """Return whether a setting is a number."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def require_positive(name: str, value: object) -> None:
    """Check a setting that has to be a positive number.

    Raises:
        TaskError: it is none.
    """
    if not (is_number(value) and 0 < value < math.inf):
        raise TaskError(f"{name} is {value!r}: give a number above 0")


def mean_of_positions(values: Tensor) -> Tensor:
    """Average over all axes but the first: (N, ...) to (N,)."""
    return values.reshape(values.shape[0], -1).mean(1)
