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
        cost, usable = model.cost, np.isfinite(model.cost)  # (sites, most combinations)
        if model.allocate is None:
            order = np.argsort(~usable, axis=1, kind="stable")
            is_on_front = np.take_along_axis(usable, order, axis=1)
        else:
            loss = model.combination_losses(losses)
            order = np.lexsort((loss, cost), axis=-1)
            lost = np.take_along_axis(loss, order, axis=1)
            is_on_front = (
                lost < np.minimum.accumulate(np.pad(lost, ((0, 0), (1, 0)), constant_values=np.inf), 1)[:, :-1]
            )
        self.lengths = is_on_front.sum(1)
        first = np.argsort(~is_on_front, axis=1, kind="stable")
        beyond = np.arange(cost.shape[1]) >= self.lengths[:, None]
        self.combinations = np.where(beyond, 0, np.take_along_axis(order, first, axis=1))
        self.positions = np.zeros(cost.shape, dtype=np.int64)
        np.put_along_axis(self.positions, order, np.maximum(is_on_front.cumsum(1) - 1, 0), axis=1)

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
    movable = np.flatnonzero(model.movable)
    total = model.costs(chosen)  # (n,)
    rounds = _ROUNDS * chosen.shape[1]
    sites = movable[rng.integers(len(movable), size=(rounds, len(chosen)))]
    rows = np.arange(len(chosen))  # those that cost too much or too little
    for drawn in sites:
        rows = rows[(total[rows] > cost[rows]) | (total[rows] < (1 - _SLACK) * cost[rows])]
        if not len(rows):
            return
        site, before = drawn[rows], total[rows]
        over = before > cost[rows]
        old = chosen[rows, site]
        new, position = fronts.moved(site, old, np.where(over, -1, 1))
        after = before - model.cost[site, old] + model.cost[site, new]
        exists = (position >= 0) & (position < fronts.lengths[site])
        accepted = exists & np.where(over, after < before, (after <= cost[rows]) & (after > before))
        chosen[rows[accepted], site[accepted]] = new[accepted]
        total[rows[accepted]] = after[accepted]


def row_keys(table: IntArray) -> list[bytes]:
    """Return the rows of a table of shape (n, columns) as bytes, to look them up by."""
    rows, width = table.tobytes(), table.shape[1] * table.itemsize
    return [rows[start : start + width] for start in range(0, len(rows), width)]


def novel(model: AdditiveModel, combinations: IntArray, known: set[bytes]) -> IntArray:
    """Leave out configurations that are known or repeated.

    Args:
        model: whose options tell configurations apart.
        combinations: (n, sites).
        known: rows of ``AdditiveModel.options``, as ``row_keys`` gives them.

    Returns:
        (at most n, sites), in their order.
    """
    seen, kept = set(known), []
    for row, key in enumerate(row_keys(model.options(combinations))):
        if key not in seen:
            seen.add(key)
            kept.append(row)
    return combinations[kept]
