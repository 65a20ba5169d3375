"""Boxes whose sides err in proportion to their size."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from autoq.tasks._orthogonal_signs import OrthogonalSigns
from autoq.tasks.heads._base import BaseHead, numbered

_SERIES_BELOW = 1e-2


@dataclass(frozen=True)
class LaplaceBoxesHead(BaseHead):
    """Boxes (N, queries, 4): centre x, centre y, width and height; an error counts in proportion to the box.

    Each of the four numbers z is the mean of a Laplace distribution of scale b, a tenth of the full-precision width
    (for centre x and width) or height: KL = |ẑ − z| / b + exp(−|ẑ − z| / b) − 1, and F = 1 / b². Large errors
    count as their absolute value, as in the losses that detectors are trained with. The four are added up.

    >>> import torch
    >>> box, moved = torch.tensor([[[0.5, 0.5, 0.2, 0.4]]]), torch.tensor([[[0.52, 0.5, 0.2, 0.4]]])
    >>> round(float(LaplaceBoxesHead().divergence(box, moved)), 4)  # 1 + 1 / e - 1
    0.3679

    Attributes:
        relative_scale: b as a share of the side.
        least_side: smallest side that b is a share of, as a share of the image.
    """

    relative_scale: float = 0.1
    least_side: float = 0.01

    kind: ClassVar[str] = "laplace"

    def position_divergence(self, reference: Tensor, quantized: Tensor) -> Tensor:
        """Return the sum over the four numbers."""
        x = (quantized - reference).abs() / self._scale(reference)
        # By its series near 0, where the difference cancels and |x| has no second derivative to differentiate.
        small = x < _SERIES_BELOW
        near = ((quantized - reference) / self._scale(reference)).square() * (0.5 - x / 6 + x.square() / 24)
        far = torch.where(small, torch.ones_like(x), x)
        return torch.where(small, near, far + torch.expm1(-far)).sum(-1)

    def position_fisher_product(self, leaf: Tensor, change: Tensor, temperature: float) -> Tensor:
        """Return Δ / b²; there are no classes for a temperature to bring closer."""
        del temperature
        return change / self._scale(leaf.double()).square()

    def fisher_root(self, leaf: Tensor, signs: OrthogonalSigns) -> Tensor:
        """Return ξ / b for signs ξ."""
        return signs.draw(numbered(leaf, 1)) / self._scale(leaf.double())

    def positions(self, leaf: Tensor) -> int:
        """Return the number of boxes."""
        return leaf.shape[1:-1].numel()

    def spread(self, importance: Tensor) -> Tensor:
        """Return the importance with an axis for the four numbers."""
        return importance.unsqueeze(-1)

    def _scale(self, boxes: Tensor) -> Tensor:
        """Return b of each of the four numbers."""
        sides = boxes[..., 2:].detach().clamp_min(self.least_side)
        return self.relative_scale * torch.cat([sides, sides], -1)
