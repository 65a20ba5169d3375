"""Random vectors that the Fisher information of a softmax is measured with.

F = diag(p) − p pᵀ = F^½ F^½ᵀ for F^½ = (I − p 1ᵀ) diag(p)^½, so that the square of F^½ ξ has the mean F if that of ξ
has the mean I.

- **ξ are signs**, as in Hutchinson's estimator of a trace (Communications in Statistics 19, 1990): ξᵀ A ξ has less
  variance than for normal ξ, by twice the squares on the diagonal of A.
- **The K vectors of an image are orthogonal on its likeliest classes**: the same random signs, times the rows of a
  Hadamard matrix, whose columns go to the classes in the order of their probability, over and over. With K a power of
  two, the mean over them is exact for what concerns the K likeliest classes; for all, if there are no more.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


class Probes:
    """Draws F^½ ξ, image after image."""

    def __init__(self, count: int, seed: int) -> None:
        """``count`` of them for each image, K."""
        self._generator = torch.Generator().manual_seed(seed)
        self._order = 1 << (count - 1).bit_length()
        rows, columns = torch.arange(count).unsqueeze(1), torch.arange(self._order)
        ones = torch.stack([(rows & columns) >> bit & 1 for bit in range(self._order.bit_length())])
        self._hadamard = (1 - 2 * (ones.sum(0) % 2)).float()

    def draw(self, logits: Tensor) -> Tensor:
        """K vectors for each image, whose outer products have the mean F; positions share an image's KL divergence.

        Args:
            logits: in full precision, of shape (N, ..., classes).

        Returns:
            Of shape (K, N, ..., classes).
        """
        # Image by image, so that it does not matter how they are divided into batches.
        drawn = [
            (
                torch.randint(0, 2, logits.shape[1:], generator=self._generator),
                torch.randint(0, self._order, (*logits.shape[1:-1], 1), generator=self._generator),
            )
            for _ in logits
        ]
        signs, shift = (torch.stack(each).to(logits.device) for each in zip(*drawn, strict=True))
        p = torch.softmax(logits.double(), -1)
        rank = p.argsort(dim=-1, descending=True, stable=True).argsort(dim=-1)
        # Shifted, since else the likeliest classes of all positions had the same column.
        rows = self._hadamard.to(p)[:, (rank % self._order) ^ shift]
        scaled = p.sqrt() * (2 * signs - 1) * rows
        positions = logits.shape[1:-1].numel()
        return ((scaled - p * scaled.sum(-1, keepdim=True)) / math.sqrt(positions)).to(logits.dtype)
