"""The sampler that allocates by sensitivities alone: the first thing that a search has to beat."""

from __future__ import annotations

from autoq.search.samplers._prior_sampler import PriorSampler
from autoq.search.samplers.landscape import IntArray


class IlpSampler(PriorSampler):
    """Exact allocation of additive sensitivities for one budget after the other, spread evenly below the limit.

    What HAWQ-V3 (Yao et al., ICML 2021) and IGQ-ViT (Moon et al., CVPR 2024) do for one budget.
    """

    def at(self, position: int) -> IntArray:
        """The allocation for the budget with this number."""
        return self._prior.allocate(self._prior.budget(position)).options
