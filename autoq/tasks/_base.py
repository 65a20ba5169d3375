"""What every task says of a model's output."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, ClassVar, Literal, Self

from torch import Tensor

from autoq.errors import TaskError
from autoq.units import Metric
from autoq.validation import did_you_mean

Outputs = tuple[Tensor, ...]
"""The leaves of a model's output that a task compares, each of shape (N, ...) for N images."""


@dataclass(frozen=True)
class Accuracy:
    """A task's metrics on labelled images.

    Attributes:
        metrics: by :attr:`Metric.name`.
        images: how many they are measured on.
    """

    metrics: Mapping[str, float]
    images: int


class BaseMeter(ABC):
    """Adds up a task's metrics, batch by batch.

    Attributes:
        images: how many have been added.
    """

    images: int = 0

    @abstractmethod
    def add(self, outputs: Outputs, labels: Tensor) -> None:
        """Add one batch.

        Args:
            outputs: the compared outputs of N images.
            labels: of those images, along the leading axis.

        Raises:
            TaskError: the labels do not fit the outputs.
        """

    @abstractmethod
    def metrics(self) -> dict[str, float]:
        """Return the metrics over all images so far, of which there is at least one."""

    def accuracy(self) -> Accuracy:
        """Return the metrics and the number of images.

        Raises:
            ValueError: no batch was added.
        """
        if not self.images:
            raise ValueError("no images to measure accuracy on")
        return Accuracy(self.metrics(), self.images)


class BaseProbes(ABC):
    """Draws vectors whose outer products have the Fisher information F of an image's output as their mean."""

    @abstractmethod
    def draw(self, outputs: Outputs) -> Outputs:
        """Draw K vectors for each image, image after image, so that it does not matter how they are batched.

        Args:
            outputs: the compared outputs in full precision, each of shape (N, ...).

        Returns:
            For each of them a tensor of shape (K, N, ...), of its type and on its device.
        """


@dataclass(frozen=True)
class BaseTask(ABC):
    """What a model's output means: the probability distribution that it stands for, and what is measured on labels.

    A task reads an output z as the parameters of a distribution p(y | z) of the answer y. An output ẑ is worse than z
    by the divergence KL(p(y | z) ‖ p(y | ẑ)), in nats, whatever the task; to second order that is ½ eᵀ F e for
    e = ẑ − z and F the Fisher information of p at z (Martens, JMLR 2020). An image's divergence is a mean over the
    positions of its output (tokens, pixels, queries), not a sum, so that it does not grow with the resolution.

    A subclass is a frozen dataclass whose fields are the task's settings, each with a default and a JSON value.

    Attributes:
        output: dotted name of the leaf of the model's output that is compared; None: the task chooses.
        name: of the task.
        metrics: on labelled images, the main one first.
        element: what one number of the output is called.
        divergence_in_words: what :meth:`divergence` is, for readers of a report.
        labels: what a label is: the index of a ``class``, or a ``tensor`` of the output's shape.
        has_agreement: whether two outputs can say the same: whether :meth:`agreement` tells.
        has_right_answers: whether an answer is simply right or wrong: whether :meth:`correct` tells.
        preferred: names of leaves that are compared where a model has them, best first.
    """

    output: str | None = None

    name: ClassVar[str]
    metrics: ClassVar[tuple[Metric, ...]]
    element: ClassVar[str]
    divergence_in_words: ClassVar[str]
    labels: ClassVar[Literal["class", "tensor"]]
    has_agreement: ClassVar[bool] = False
    has_right_answers: ClassVar[bool] = False
    preferred: ClassVar[tuple[str, ...]] = ()

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
            Positions in ``leaves``. The leaf named by :attr:`output` if that is given, else the first of
            :attr:`preferred` that there is, else the first floating-point tensor.

        Raises:
            TaskError: no leaf has the name, or none is a floating-point tensor.
        """
        tensors = [(position, leaf) for position, leaf in enumerate(leaves) if isinstance(leaf, Tensor)]
        known = names or [str(number) for number in range(len(tensors))]
        floating = {
            name: position for name, (position, leaf) in zip(known, tensors, strict=True) if leaf.is_floating_point()
        }
        if not floating:
            raise TaskError("the model returns no floating-point tensor, so that there is nothing to compare")
        if self.output is None:
            return (floating[next((name for name in self.preferred if name in floating), next(iter(floating)))],)
        if self.output not in floating:
            there = ", ".join(repr(name) for name in floating)
            raise TaskError(
                f"the model has no output {self.output!r} to compare, there is {there}."
                f"{did_you_mean(self.output, floating)}"
            )
        return (floating[self.output],)

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

    @abstractmethod
    def divergence(self, reference: Outputs, quantized: Outputs) -> Tensor:
        """Return KL(reference ‖ quantized) of each image in nats, in the outputs' precision. Differentiable.

        Args:
            reference: outputs in full precision, each of shape (N, ...).
            quantized: of the same shapes.

        Returns:
            Of shape (N,). Rounding may leave it a little below zero.
        """

    def loss(self, output: Outputs, target: Outputs) -> Tensor:
        """Return the mean divergence of a batch from its target in nats, in float32: what training minimises."""
        return self.divergence(_float(target), _float(output)).mean()

    @abstractmethod
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

    @abstractmethod
    def probes(self, count: int, seed: int) -> BaseProbes:
        """Return what draws ``count`` vectors an image with outer products of mean F, as in Hutchinson's estimator."""

    def agreement(self, reference: Outputs, quantized: Outputs) -> Tensor | None:
        """Return the share of each image's positions at which both say the same, of shape (N,); None if undefined."""
        del reference, quantized
        return None

    def correct(self, outputs: Outputs, labels: Tensor) -> Tensor:
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


def per_image(outputs: Tensor) -> Tensor:
    """Return the outputs as rows.

    Args:
        outputs: of shape (N, ...).

    Returns:
        Of shape (N, elements).
    """
    return outputs.reshape(outputs.shape[0], -1)
