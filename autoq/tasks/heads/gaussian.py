"""Numbers with errors of one variance."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from autoq.errors import TaskError
from autoq.tasks._orthogonal_signs import OrthogonalSigns
from autoq.tasks.heads._base import BaseHead


@dataclass(frozen=True)
class GaussianHead(BaseHead):
    """Means of Gaussians of one variance σ²; every element of the leaf is a position.

    KL = (ẑ − z)² / (2 σ²), and F = 1 / σ².

    >>> import torch
    >>> GaussianHead(variance=0.5).divergence(torch.zeros(1, 2), torch.tensor([[1.0, 3.0]]))
    tensor([5.])

    Attributes:
        variance: σ², in squared units of the output; None: not known yet.
    """

    variance: float | None = None

    kind: ClassVar[str] = "gaussian"

    def position_divergence(self, reference: Tensor, quantized: Tensor) -> Tensor:
        """Return (ẑ − z)² / (2 σ²)."""
        return (reference - quantized).square() / (2 * self._known)

    def position_fisher_product(self, leaf: Tensor, change: Tensor, temperature: float) -> Tensor:
        """Return Δ / σ²; there are no classes for a temperature to bring closer."""
        del leaf, temperature
        return change / self._known

    def fisher_root(self, leaf: Tensor, signs: OrthogonalSigns) -> Tensor:
        """Return ξ / σ for signs ξ that are orthogonal on any K consecutive elements of an image."""
        count = leaf.shape[1:].numel()
        drawn = signs.draw(torch.arange(count, device=leaf.device).expand(leaf.shape[0], count))  # (K, N, elements)
        return drawn.reshape(-1, *leaf.shape) / math.sqrt(self._known)

    def positions(self, leaf: Tensor) -> int:
        """Return the number of elements of an image."""
        return leaf.shape[1:].numel()

    @property
    def _known(self) -> float:
        if self.variance is None:
            raise TaskError("the variance of the outputs is not known yet: call fitted() with full precision's outputs")
        return self.variance
