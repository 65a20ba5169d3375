"""The sampler of exact allocations by sensitivities alone: the baseline of every search."""

from __future__ import annotations

from autoq.optimization.allocation.knapsack import IntArray
from autoq.optimization.samplers._base import BasePriorSampler


class IlpSampler(BasePriorSampler):
    """Exact allocation of additive sensitivities for one budget after the other, spread evenly below the limit.

    What HAWQ-V3 (Yao et al., ICML 2021) and IGQ-ViT (Moon et al., CVPR 2024) do for one budget.
    """

    def at(self, position: int) -> IntArray:
        """Allocate for the budget with this number."""
        return self._prior.allocate(self._prior.budget(position)).combinations
