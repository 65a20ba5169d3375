"""Classification: logits of classes, compared as the probabilities that softmax makes of them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from autoq.tasks._base import BaseMeter, BaseProbes, BaseTask, Outputs
from autoq.tasks._orthogonal_signs import OrthogonalSigns
from autoq.units import Metric


@dataclass(frozen=True)
class ClassificationTask(BaseTask):
    """Logits of shape (N, ..., classes); what lies between (queries, pixels) are positions, which share an image.

    p = softmax(z) is a categorical distribution: KL(p ‖ q) = Σ p (log p − log q), and F = diag(p) − p pᵀ.

    >>> import torch
    >>> task = ClassificationTask()
    >>> even, sure = torch.zeros(1, 2), torch.tensor([[0.0, math.log(4)]])
    >>> round(float(task.divergence((even,), (sure,))), 4)  # ½ log(5/2) + ½ log(5/8)
    0.2231
    """

    name: ClassVar[str] = "classification"
    metrics: ClassVar[tuple[Metric, ...]] = (
        Metric("top1_percent", "top-1", "top-1 accuracy", "%"),
        Metric("top5_percent", "top-5", "top-5 accuracy", "%"),
    )
    element: ClassVar[str] = "logit"
    divergence_in_words: ClassVar[str] = "the Kullback–Leibler divergence of the predicted class probabilities"
    labels: ClassVar[Literal["class", "tensor"]] = "class"
    has_agreement: ClassVar[bool] = True
    has_right_answers: ClassVar[bool] = True
    preferred: ClassVar[tuple[str, ...]] = ("logits",)

    def divergence(self, reference: Outputs, quantized: Outputs) -> Tensor:
        """Return KL(softmax(reference) ‖ softmax(quantized)), the mean over an image's positions."""
        (expected,), (found,) = reference, quantized
        log_p, log_q = torch.log_softmax(expected, -1), torch.log_softmax(found, -1)  # (N, ..., classes)
        return _mean_of_positions((log_p.exp() * (log_p - log_q)).sum(-1))

    def fisher_product(self, outputs: Outputs, change: Outputs, temperature: float = 1.0) -> Outputs:
        """Return (diag(p) − p pᵀ) Δ for p = softmax(z / T), divided by the number of positions."""
        (logits,), (delta,) = outputs, change
        p = torch.softmax(logits.double() / temperature, -1)  # (N, ..., classes)
        positions = logits.shape[1:-1].numel()
        return ((p * (delta - (p * delta).sum(-1, keepdim=True)) / positions).to(logits),)

    def probes(self, count: int, seed: int) -> BaseProbes:
        """Return what draws F^½ ξ for signs ξ that are orthogonal on the likeliest classes."""
        return _SoftmaxProbes(count, seed)

    def agreement(self, reference: Outputs, quantized: Outputs) -> Tensor:
        """Return the share of each image's positions whose likeliest class is the same."""
        (expected,), (found,) = reference, quantized
        return _mean_of_positions((expected.argmax(-1) == found.argmax(-1)).double())

    def correct(self, outputs: Outputs, labels: Tensor) -> Tensor:
        """Tell whether the label is the likeliest class; where a logit is not finite it is not."""
        (logits,) = outputs
        return (logits.argmax(-1) == labels) & torch.isfinite(logits).all(-1)

    def meter(self) -> BaseMeter:
        """Count labels that are the likeliest class, or among the five likeliest."""
        return _TopClasses()


def _mean_of_positions(values: Tensor) -> Tensor:
    """Average over all axes but the first: (N, ...) to (N,)."""
    return values.reshape(values.shape[0], -1).mean(1)


class _SoftmaxProbes(BaseProbes):
    """F = F^½ F^½ᵀ for F^½ = (I − p 1ᵀ) diag(p)^½: the outer product of F^½ ξ has the mean F if that of ξ has I.

    - **ξ are signs**, as in Hutchinson's estimator of a trace (Communications in Statistics 19, 1990): ξᵀ A ξ has less
      variance than for normal ξ, by twice the squares on the diagonal of A.
    - **The K vectors of an image are orthogonal on its likeliest classes**: with K a power of two, the mean over them
      is exact for what concerns the K likeliest classes; for all, if there are no more.
    """

    def __init__(self, count: int, seed: int) -> None:
        self._signs = OrthogonalSigns(count, seed)

    def draw(self, outputs: Outputs) -> Outputs:
        """See :class:`BaseProbes`; positions share an image's divergence."""
        (logits,) = outputs
        p = torch.softmax(logits.double(), -1)  # (N, ..., classes)
        rank = p.argsort(dim=-1, descending=True, stable=True).argsort(dim=-1)
        scaled = p.sqrt() * self._signs.draw(rank)  # (K, N, ..., classes)
        positions = logits.shape[1:-1].numel()
        centred = scaled - p * scaled.sum(-1, keepdim=True)
        return ((centred / math.sqrt(positions)).to(logits.dtype),)


class _TopClasses(BaseMeter):
    """Counts images whose label is among the likeliest classes."""

    def __init__(self) -> None:
        self._top1 = self._top5 = 0

    def add(self, outputs: Outputs, labels: Tensor) -> None:
        """Count one batch: logits of shape (N, classes), class indices of shape (N,)."""
        (logits,) = outputs
        hits = logits.topk(min(5, logits.shape[-1]), dim=-1).indices == labels.unsqueeze(1)
        self._top1 += int(hits[:, 0].sum())
        self._top5 += int(hits.any(1).sum())
        self.images += len(labels)

    def metrics(self) -> dict[str, float]:
        """Return percentages of the images."""
        return {"top1_percent": 100 * self._top1 / self.images, "top5_percent": 100 * self._top5 / self.images}


CLASSIFICATION = ClassificationTask()
"""What a model's output is taken for if nothing else is said."""
