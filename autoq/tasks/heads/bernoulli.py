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
    answer. The answers at a position are added up (classes), or in addition divided by the expected number of yes in
    full precision (pixels of a mask: what counts is the share of the mask that changes, as in intersection over union,
    whatever its size and the resolution).

    >>> import torch
    >>> head = BernoulliHead()
    >>> even, sure = torch.zeros(1, 1, 1), torch.full((1, 1, 1), 3.0).log()
    >>> round(float(head.divergence(even, sure)), 4)  # ½ log(½ / ¾) + ½ log(½ / ¼)
    0.1438

    Attributes:
        axes: how many of the last axes.
        relative: whether they are divided by the expected number of yes, at least 1.
    """

    axes: int = 1
    relative: bool = False

    kind: ClassVar[str] = "bernoulli"

    def position_divergence(self, reference: Tensor, quantized: Tensor) -> Tensor:
        """Return the sum of the answers' divergences, relative or not."""
        p = torch.sigmoid(reference)
        each = p * (reference - quantized) + softplus(quantized) - softplus(reference)
        return (each / self._expected(reference)).flatten(each.ndim - self.axes).sum(-1)

    def position_fisher_product(self, leaf: Tensor, change: Tensor, temperature: float) -> Tensor:
        """Return p (1 − p) Δ for p = sigmoid(z / T)."""
        p = torch.sigmoid(leaf.double() / temperature)
        return p * (1 - p) * change / self._expected(leaf)

    def fisher_root(self, leaf: Tensor, signs: OrthogonalSigns) -> Tensor:
        """Return (p (1 − p))^½ ξ for signs ξ, orthogonal on any K consecutive answers of a position."""
        p = torch.sigmoid(leaf.double())
        drawn = signs.draw(numbered(leaf, self.axes))  # (K, N, *positions, answers)
        return (p * (1 - p) / self._expected(leaf)).sqrt() * drawn.reshape(-1, *leaf.shape)

    def positions(self, leaf: Tensor) -> int:
        """Return the product of the axes between the first and the last ones."""
        return leaf.shape[1 : leaf.ndim - self.axes].numel()

    def spread(self, importance: Tensor) -> Tensor:
        """Return the importance with axes for the answers."""
        return importance.reshape(*importance.shape, *(1 for _ in range(self.axes)))

    def presence(self, leaf: Tensor) -> Tensor:
        """Return the probability of at least one yes at each position, of shape (N, *positions)."""
        return 1 - torch.sigmoid(-leaf).flatten(leaf.ndim - self.axes).prod(-1)

    def _expected(self, leaf: Tensor) -> Tensor | float:
        """Return the expected number of yes at each position, of shape (N, *positions, 1, ...), if that divides."""
        if not self.relative:
            return 1.0
        return torch.sigmoid(leaf.detach()).sum(tuple(range(-self.axes, 0)), keepdim=True).clamp_min(1.0)
