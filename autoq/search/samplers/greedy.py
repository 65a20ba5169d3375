"""The sampler that takes the least sensitive option first, whatever it saves."""

from __future__ import annotations

import numpy as np

from autoq.search.samplers._base import BasePriorSampler, places_of
from autoq.search.samplers.landscape import IntArray
from autoq.search.samplers.prior import AllocationPrior


class GreedySampler(BasePriorSampler):
    """Walks from the dearest recipe down, taking the least sensitive option of all that is left each time.

    What AIMET's automatic mixed precision does: options of all operands are sorted by their loss alone; each is taken
    in turn where it costs less than what its operand has. Recipes on the way are proposed by the budgets they keep.
    """

    def __init__(self, seed: int, prior: AllocationPrior) -> None:
        """Walk the whole way; each recipe on it takes eight bytes a site."""
        super().__init__(seed, prior)
        self._way, self._costs = _greedy_way(prior)

    def at(self, position: int) -> IntArray:
        """The first recipe on the way that keeps the budget with this number."""
        kept = np.flatnonzero(self._costs <= self._prior.budget(position))
        return self._way[int(kept[0]) if len(kept) else -1]


def _greedy_way(prior: AllocationPrior) -> tuple[list[IntArray], IntArray]:
    problem = prior.problem
    losses = problem.site_losses(prior.table)
    current = problem.allocate(prior.table, problem.maximum_bops, gap=0).options
    way, costs = [current], [problem.bops(current)]
    places = places_of(problem)
    steps = sorted(
        (float(loss), part, entry)
        for part, losses_of_part in enumerate(prior.table)
        for entry, loss in enumerate(losses_of_part)
        if np.isfinite(loss)
    )
    for _, part, entry in steps:
        index, column = places[part]
        site, now = problem.sites[index], current[index]
        fitting = (site.operand_options[:, column] == entry) & (site.ties == site.ties[now]).all(1)
        options = np.flatnonzero(fitting & np.isfinite(losses[index]))
        if not len(options):
            continue
        # Operands whose bits are tied to this one's change with it; all others stay.
        changed = (site.operand_options[options] != site.operand_options[now]).sum(1)
        chosen = options[np.lexsort((losses[index][options], changed))[0]]
        if site.bops[chosen] < site.bops[now]:
            current = current.copy()
            current[index] = chosen
            way.append(current)
            costs.append(problem.bops(current))
    return way, np.array(costs)
