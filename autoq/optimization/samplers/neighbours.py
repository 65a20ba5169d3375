"""Neighbours of good configurations that cost as much as asked for: the candidates of ``ProgressiveSampler``."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from autoq.optimization.allocation.knapsack import FloatArray, IntArray
from autoq.optimization.samplers.additive_model import AdditiveModel

_SLACK = 0.005
"""Share of the cost that may be left unspent."""
_ROUNDS = 3
"""Times as many random steps towards the cost asked for as there are sites."""


class SiteFronts:
    """The non-dominated combinations of each site, by ascending cost: each dearer one loses less.

    Attributes:
        model: sites and costs.
        combinations: (sites, most combinations) those of each site's front, from the first column on.
        lengths: (sites,) how many there are.
        positions: (sites, most combinations) for every combination, the position on the front of the best that costs
            no more.
    """

    def __init__(self, model: AdditiveModel, losses: FloatArray) -> None:
        """Sort the combinations of each site by their cost and the sum of their operands' losses.

        Args:
            model: sites and costs. Without expected losses, all of a site's combinations are kept, in their own order.
            losses: (options,) the losses to add up.
        """
        self.model = model
        cost, loss = model.cost, model.combination_losses(losses)  # (sites, most combinations)
        self.combinations = np.zeros(cost.shape, dtype=np.int64)
        self.lengths = np.zeros(len(cost), dtype=np.int64)
        self.positions = np.zeros(cost.shape, dtype=np.int64)
        for site in range(len(cost)):
            usable = np.flatnonzero(np.isfinite(cost[site]))
            if model.allocate is None:
                front = usable
                positions = np.arange(cost.shape[1])
            else:
                order = usable[np.lexsort((loss[site, usable], cost[site, usable]))]
                before = np.minimum.accumulate(np.concatenate([[np.inf], loss[site, order][:-1]]))
                front = order[loss[site, order] < before]
                positions = np.searchsorted(cost[site, front], cost[site], side="right") - 1
            self.combinations[site, : len(front)] = front
            self.lengths[site] = len(front)
            self.positions[site] = np.clip(positions, 0, len(front) - 1)

    def moved(self, site: IntArray, combinations: IntArray, shift: IntArray) -> tuple[IntArray, IntArray]:
        """Move along the fronts, as far as they go.

        Args:
            site: numbers of sites, of a shape that broadcasts with the others.
            combinations: of these sites.
            shift: by how many positions, towards more expensive combinations where positive.

        Returns:
            The combinations there, and the positions that were asked for, which may lie beyond a front's ends.
        """
        position = self.positions[site, combinations] + shift
        return self.combinations[site, np.clip(position, 0, self.lengths[site] - 1)], position


@dataclass(frozen=True)
class StepSize:
    """How far neighbours are from their parents.

    Attributes:
        sites: how many sites change, on average; others may follow to keep the cost.
        positions: how many positions of its front a site moves at most.
    """

    sites: float
    positions: int


def neighbours(
    fronts: SiteFronts, parents: IntArray, cost: FloatArray, step: StepSize, rng: np.random.Generator
) -> IntArray:
    """Make configurations that differ from their parent in a few sites and cost nearly, but not more than ``cost``.

    Args:
        fronts: combinations to move along.
        parents: (n, sites) to start from, one for each neighbour.
        cost: (n,) the most that each neighbour may cost.
        step: how far to move.
        rng: of all that is random.

    Returns:
        Combinations of shape (at most n, sites): without those that could not be brought to the cost.
    """
    model = fronts.model
    if not model.movable.any():
        return parents[model.costs(parents) <= cost]
    chosen = _changed_at_random(fronts, parents, step, rng)
    _spend_(fronts, chosen, cost, rng)
    return chosen[model.costs(chosen) <= cost]


def _changed_at_random(fronts: SiteFronts, parents: IntArray, step: StepSize, rng: np.random.Generator) -> IntArray:
    """Move some sites of every configuration, one at least: (n, sites)."""
    movable = np.flatnonzero(fronts.model.movable)
    count = len(parents)
    changed = rng.random(parents.shape) < step.sites / len(movable)
    changed[np.arange(count), movable[rng.integers(len(movable), size=count)]] = True
    shifts = [*range(-step.positions, 0), *range(1, step.positions + 1)]
    moved, _ = fronts.moved(np.arange(parents.shape[1]), parents, rng.choice(shifts, size=parents.shape))
    return np.where(changed & fronts.model.movable, moved, parents)


def _spend_(fronts: SiteFronts, chosen: IntArray, cost: FloatArray, rng: np.random.Generator) -> None:
    """Move random sites by one position, down while a configuration costs too much and up while it costs too little.

    Args:
        fronts: combinations to move along.
        chosen: (n, sites) changed in place.
        cost: (n,) what each configuration may cost.
        rng: chooses the sites.
    """
    model = fronts.model
    movable, rows = np.flatnonzero(model.movable), np.arange(len(chosen))
    total = model.costs(chosen)  # (n,)
    for _ in range(_ROUNDS * chosen.shape[1]):
        over = total > cost
        site = movable[rng.integers(len(movable), size=len(chosen))]
        old = chosen[rows, site]
        new, position = fronts.moved(site, old, np.where(over, -1, 1))
        exists = (position >= 0) & (position < fronts.lengths[site])
        new_total = total - model.cost[site, old] + model.cost[site, new]
        dearer = (new_total <= cost) & (new_total > total) & (total < (1 - _SLACK) * cost)
        accepted = exists & np.where(over, new_total < total, dearer)
        chosen[rows[accepted], site[accepted]] = new[accepted]
        total = np.where(accepted, new_total, total)


def novel(model: AdditiveModel, combinations: IntArray, known: set[bytes]) -> IntArray:
    """Leave out configurations that are known or repeated.

    Args:
        model: whose options tell configurations apart.
        combinations: (n, sites).
        known: rows of ``AdditiveModel.options`` as bytes.

    Returns:
        (at most n, sites), in their order.
    """
    seen, kept = set(known), []
    for row, options in enumerate(model.options(combinations)):
        if (key := options.tobytes()) not in seen:
            seen.add(key)
            kept.append(row)
    return combinations[kept]
