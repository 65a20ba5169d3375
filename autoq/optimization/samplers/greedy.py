"""The sampler that takes the least sensitive option first, whatever it saves."""

from __future__ import annotations

import numpy as np

from autoq.optimization.allocation.knapsack import IntArray
from autoq.optimization.samplers._base import BasePriorSampler, operand_columns
from autoq.optimization.samplers.prior import AllocationPrior


class GreedySampler(BasePriorSampler):
    """Goes from the dearest recipe down, by the least sensitive option of all that are left each time.

    What AIMET's automatic mixed precision does: options of all operands are sorted by their loss alone; each is taken
    in turn where it costs less than the one that its operand has. Of the recipes on this path, the first within each of
    a sequence of budgets is proposed.
    """

    def __init__(self, seed: int, prior: AllocationPrior) -> None:
        """Compute the whole path; each recipe on it takes eight bytes a site."""
        super().__init__(seed, prior)
        self._path, self._costs = _greedy_path(prior)

    def at(self, position: int) -> IntArray:
        """Return the first recipe on the path within the budget with this number."""
        within = np.flatnonzero(self._costs <= self._prior.budget(position))
        return self._path[int(within[0]) if len(within) else -1]


def _greedy_path(prior: AllocationPrior) -> tuple[list[IntArray], IntArray]:
    """Compute the configurations, each (sites,), that the greedy order goes through, and (steps,) their costs."""
    problem = prior.problem
    losses = problem.site_losses(prior.table)
    current = problem.allocate(prior.table, problem.maximum_cost, gap=0).combinations
    path, costs = [current], [problem.cost(current)]
    columns = operand_columns(problem)
    steps = sorted(
        (float(loss), operand, option)
        for operand, losses_of_operand in enumerate(prior.table)
        for option, loss in enumerate(losses_of_operand)
        if np.isfinite(loss)
    )
    for _, operand, option in steps:
        row, column = columns[operand]
        site, now = problem.sites[row], current[row]
        fitting = (site.options[:, column] == option) & (site.ties == site.ties[now]).all(1)
        candidates = np.flatnonzero(fitting & np.isfinite(losses[row]))
        if not len(candidates):
            continue
        # Operands whose bits are tied to this one's change with it; all others stay.
        changed = (site.options[candidates] != site.options[now]).sum(1)
        chosen = candidates[np.lexsort((losses[row][candidates], changed))[0]]
        if site.cost[chosen] < site.cost[now]:
            current = current.copy()
            current[row] = chosen
            path.append(current)
            costs.append(problem.cost(current))
    return path, np.array(costs)
