"""Yes or no, by sigmoid: independent classes, and masks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import softplus

from autoq.tasks._orthogonal_signs import OrthogonalSigns
from autoq.tasks.heads._base import BaseHead, numbered


@dataclass(frozen=True)
class BernoulliHead(BaseHead):
    """Logits of independent answers; the last ``axes`` axes hold those at one position.

    p = sigmoid(z) is the probability of yes: KL = p (z − ẑ) + softplus(ẑ) − softplus(z), and F = p (1 − p), for each
    answer. The answers at a position are added up (classes), or averaged (pixels of a mask, whose number is one of
    resolution).

    >>> import torch
    >>> head = BernoulliHead()
    >>> even, sure = torch.zeros(1, 1, 1), torch.full((1, 1, 1), 3.0).log()
    >>> round(float(head.divergence(even, sure)), 4)  # ½ log(½ / ¾) + ½ log(½ / ¼)
    0.1438

    Attributes:
        axes: how many of the last axes.
        averaged: whether the answers at a position are averaged.
    """

    axes: int = 1
    averaged: bool = False

    kind: ClassVar[str] = "bernoulli"

    def position_divergence(self, reference: Tensor, quantized: Tensor) -> Tensor:
        """Return the sum or the mean of the answers' divergences."""
        p = torch.sigmoid(reference)
        each = p * (reference - quantized) + softplus(quantized) - softplus(reference)
        return each.flatten(each.ndim - self.axes).sum(-1) / self._share(reference)

    def position_fisher_product(self, leaf: Tensor, change: Tensor, temperature: float) -> Tensor:
        """Return p (1 − p) Δ for p = sigmoid(z / T)."""
        p = torch.sigmoid(leaf.double() / temperature)
        return p * (1 - p) * change / self._share(leaf)

    def fisher_root(self, leaf: Tensor, signs: OrthogonalSigns) -> Tensor:
        """Return (p (1 − p))^½ ξ for signs ξ, orthogonal on any K consecutive answers of a position."""
        p = torch.sigmoid(leaf.double())
        drawn = signs.draw(numbered(leaf, self.axes))  # (K, N, *positions, answers)
        return (p * (1 - p) / self._share(leaf)).sqrt() * drawn.reshape(-1, *leaf.shape)

    def positions(self, leaf: Tensor) -> int:
        """Return the product of the axes between the first and the last ones."""
        return leaf.shape[1 : leaf.ndim - self.axes].numel()

    def spread(self, importance: Tensor) -> Tensor:
        """Return the importance with axes for the answers."""
        return importance.reshape(*importance.shape, *(1 for _ in range(self.axes)))

    def presence(self, leaf: Tensor) -> Tensor:
        """Return the probability of at least one yes at each position, of shape (N, *positions)."""
        return 1 - torch.sigmoid(-leaf).flatten(leaf.ndim - self.axes).prod(-1)

    def _share(self, leaf: Tensor) -> int:
        return leaf.shape[leaf.ndim - self.axes :].numel() if self.averaged else 1
