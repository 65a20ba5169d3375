"""One of several classes, by softmax."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from autoq.tasks._orthogonal_signs import OrthogonalSigns
from autoq.tasks.heads._base import BaseHead


@dataclass(frozen=True)
class CategoricalHead(BaseHead):
    """Logits of classes; all axes but the first and that of the classes number positions.

    p = softmax(z) is a categorical distribution: KL(p ‖ q) = Σ p (log p − log q), and F = diag(p) − p pᵀ.

    >>> import torch
    >>> head = CategoricalHead(axis=1)
    >>> tuple(head.position_divergence(torch.zeros(2, 3, 4, 4), torch.ones(2, 3, 4, 4)).shape)
    (2, 4, 4)

    Attributes:
        axis: of the classes.
    """

    axis: int = -1

    kind: ClassVar[str] = "categorical"

    def position_divergence(self, reference: Tensor, quantized: Tensor) -> Tensor:
        """Return Σ p (log p − log q)."""
        log_p, log_q = torch.log_softmax(reference, self.axis), torch.log_softmax(quantized, self.axis)
        return (log_p.exp() * (log_p - log_q)).sum(self.axis)

    def position_fisher_product(self, leaf: Tensor, change: Tensor, temperature: float) -> Tensor:
        """Return (diag(p) − p pᵀ) Δ for p = softmax(z / T)."""
        p = torch.softmax(leaf.double() / temperature, self.axis)
        return p * (change - (p * change).sum(self.axis, keepdim=True))

    def fisher_root(self, leaf: Tensor, signs: OrthogonalSigns) -> Tensor:
        """Return F^½ ξ for F^½ = (I − p 1ᵀ) diag(p)^½: the outer product of F^½ ξ has the mean F if that of ξ has I.

        - **ξ are signs**, as in Hutchinson's estimator of a trace (Communications in Statistics 19, 1990): ξᵀ A ξ has
          less variance than for normal ξ, by twice the squares on the diagonal of A.
        - **The K vectors of an image are orthogonal on its likeliest classes**: with K a power of two, the mean over
          them is exact for what concerns the K likeliest classes; for all, if there are no more.
        """
        p = torch.softmax(leaf.double().movedim(self.axis, -1), -1)  # (N, *positions, classes)
        rank = p.argsort(dim=-1, descending=True, stable=True).argsort(dim=-1)
        scaled = p.sqrt() * signs.draw(rank)  # (K, N, *positions, classes)
        centred = scaled - p * scaled.sum(-1, keepdim=True)
        return centred.movedim(-1, self.axis if self.axis < 0 else self.axis + 1)

    def positions(self, leaf: Tensor) -> int:
        """Return the product of the axes that number positions."""
        return leaf.shape[1:].numel() // max(self.classes(leaf), 1)

    def spread(self, importance: Tensor) -> Tensor:
        """Return the importance with an axis for the classes."""
        return importance.unsqueeze(self.axis)

    def classes(self, leaf: Tensor) -> int:
        """Return the number of classes."""
        return leaf.shape[self.axis]
