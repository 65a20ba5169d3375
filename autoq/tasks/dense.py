"""Dense prediction and regression: a map of numbers, or a vector, compared by its squared error."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import ClassVar, Self

from autoq.errors import TaskError
from autoq.tasks._base import BaseTask, LabelKind, require_positive
from autoq.tasks._meter import BaseMeter, Labels, Outputs, as_tensor
from autoq.tasks.heads import BaseHead, GaussianHead
from autoq.units import Metric


@dataclass(frozen=True)
class DenseTask(BaseTask):
    """Numbers of any shape (N, ...): depth, saliency, an embedding, a vector of regressed values.

    Every element is the mean of a Gaussian of variance σ², the variance of all elements of the full-precision outputs
    over the calibration images: an error counts by how large it is beside what the model has to say.

    >>> import torch
    >>> task = DenseTask().fitted([(torch.tensor([[1.0, 3.0]]),)])
    >>> task.variance
    1.0
    >>> float(task.divergence((torch.zeros(1, 2),), (torch.tensor([[0.0, 2.0]]),)))  # (0 + ½ 2²) / 2
    1.0

    Attributes:
        variance: σ², in squared units of the output; None: not fitted yet.
    """

    variance: float | None = None

    name: ClassVar[str] = "dense"
    metrics: ClassVar[tuple[Metric, ...]] = (
        Metric("rmse", "RMSE", "root mean squared error", higher_is_better=False),
        Metric("mae", "MAE", "mean absolute error", higher_is_better=False),
    )
    element: ClassVar[str] = "output element"
    divergence_in_words: ClassVar[str] = (
        "the squared error of an output element over twice the variance of all of them in full precision, which is the "
        "Kullback–Leibler divergence of Gaussians"
    )
    labels: ClassVar[LabelKind] = "tensor"

    def __post_init__(self) -> None:
        """Check the variance.

        Raises:
            TaskError: it is not a positive number.
        """
        super().__post_init__()
        if self.variance is not None:
            require_positive("variance", self.variance)

    def fitted(self, outputs: Iterable[Outputs]) -> Self:
        """Return the task with σ², the variance of all elements of ``outputs`` in double precision.

        Raises:
            TaskError: there are no elements, or all are equal or one is not finite.
        """
        if self.variance is not None:
            return self
        count, mean, squares = 0, 0.0, 0.0  # Chan, Golub and LeVeque: batches are merged without cancellation
        for (batch,) in outputs:
            values = batch.detach().double()
            own = values.numel()
            if not own:
                continue
            own_mean = float(values.mean())
            shift = own_mean - mean
            squares += float((values - own_mean).square().sum()) + shift**2 * count * own / (count + own)
            mean += shift * own / (count + own)
            count += own
        variance = squares / count if count else 0.0
        if not 0 < variance < math.inf:
            raise TaskError(
                f"the outputs of the calibration images have the variance {variance:g} in full precision, by which "
                "errors cannot be divided: give other images, or check the weights and which output is compared"
            )
        return replace(self, variance=variance)

    @property
    def heads(self) -> tuple[BaseHead, ...]:
        """Every element of the output."""
        return (GaussianHead(leaves=("predicted_depth", "logits"), variance=self.variance),)

    def meter(self) -> BaseMeter:
        """Add up squared and absolute errors."""
        return _Errors()


class _Errors(BaseMeter):
    """Adds up squared and absolute errors of elements."""

    def __init__(self) -> None:
        self._squared = self._absolute = 0.0
        self._elements = 0

    def add(self, outputs: Outputs, labels: Labels) -> None:
        """Add one batch: outputs and labels of the same shape (N, ...)."""
        (values,), labels = outputs, as_tensor(labels)
        if labels.shape != values.shape:
            raise TaskError(
                f"labels have shape {tuple(labels.shape)}, but the output has {tuple(values.shape)}: give one label "
                "for each element"
            )
        errors = values.double() - labels.double()
        self._squared += float(errors.square().sum())
        self._absolute += float(errors.abs().sum())
        self._elements += errors.numel()
        self.images += len(labels)

    def metrics(self) -> dict[str, float]:
        """Return means over all elements of all images."""
        return {"rmse": math.sqrt(self._squared / self._elements), "mae": self._absolute / self._elements}
