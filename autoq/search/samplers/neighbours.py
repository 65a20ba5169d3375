"""Neighbours of good configurations that cost as much as asked for: what ``ProgressiveSampler`` chooses from."""

from __future__ import annotations

import numpy as np

from autoq.search.samplers.landscape import FloatArray, IntArray, Landscape

_SLACK = 0.005
"""Share of the cost that may be left unspent."""
_ROUNDS = 3
"""Times as many random steps towards the cost asked for as there are items."""


class Ladders:
    """For each item, the options worth having, by ascending cost: each dearer one loses less."""

    def __init__(self, landscape: Landscape, losses: FloatArray) -> None:
        """Sort out the options by their cost and the sum of the losses (entries,) of their parts.

        Without expected losses, all of an item's options are kept, in their own order.
        """
        cost, loss = landscape.cost, landscape.option_losses(losses)
        self.rungs = np.zeros(cost.shape, dtype=np.int64)
        self.lengths = np.zeros(len(cost), dtype=np.int64)
        self.nearest = np.zeros(cost.shape, dtype=np.int64)
        for item in range(len(cost)):
            usable = np.flatnonzero(np.isfinite(cost[item]))
            if landscape.allocate is None:
                rungs = usable
                nearest = np.arange(cost.shape[1])
            else:
                order = usable[np.lexsort((loss[item, usable], cost[item, usable]))]
                before = np.minimum.accumulate(np.concatenate([[np.inf], loss[item, order][:-1]]))
                rungs = order[loss[item, order] < before]
                nearest = np.searchsorted(cost[item, rungs], cost[item], side="right") - 1
            self.rungs[item, : len(rungs)] = rungs
            self.lengths[item] = len(rungs)
            self.nearest[item] = np.clip(nearest, 0, len(rungs) - 1)


def neighbours(
    landscape: Landscape,
    ladders: Ladders,
    parents: IntArray,
    cost: FloatArray,
    step: float,
    reach: int,
    rng: np.random.Generator,
) -> IntArray:
    """Configurations that differ from their parent in a few items and cost nearly, but not more than ``cost``.

    Args:
        landscape: items and costs.
        ladders: what options an item moves along.
        parents: (n, items) to start from, one for each neighbour.
        cost: (n,) the most that each neighbour may cost.
        step: how many items change, about; others may follow to keep the cost.
        reach: how many rungs an item moves at most.
        rng: of all that is random.

    Returns:
        Options of shape (at most n, items): without those that could not be brought to the cost.
    """
    items = np.arange(parents.shape[1])
    movable = np.flatnonzero(landscape.movable)
    count, chosen = len(parents), parents
    if not len(movable):
        return chosen[landscape.costs(chosen) <= cost]
    rows = np.arange(count)
    changed = rng.random(chosen.shape) < step / len(movable)
    changed[rows, movable[rng.integers(len(movable), size=count)]] = True
    moved = ladders.nearest[items, chosen] + rng.choice([*range(-reach, 0), *range(1, reach + 1)], size=chosen.shape)
    moved = ladders.rungs[items, np.clip(moved, 0, ladders.lengths - 1)]
    chosen = np.where(changed & landscape.movable, moved, chosen)
    total = landscape.costs(chosen)
    for _ in range(_ROUNDS * len(items)):
        over = total > cost
        item = movable[rng.integers(len(movable), size=count)]
        rung = ladders.nearest[item, chosen[rows, item]] + np.where(over, -1, 1)
        exists = (rung >= 0) & (rung < ladders.lengths[item])
        option = ladders.rungs[item, np.clip(rung, 0, ladders.lengths[item] - 1)]
        new_total = total - landscape.cost[item, chosen[rows, item]] + landscape.cost[item, option]
        dearer = (new_total <= cost) & (new_total > total) & (total < (1 - _SLACK) * cost)
        accepted = exists & np.where(over, new_total < total, dearer)
        chosen[rows[accepted], item[accepted]] = option[accepted]
        total = np.where(accepted, new_total, total)
    return chosen[landscape.costs(chosen) <= cost]


def novel(landscape: Landscape, options: IntArray, known: set[bytes]) -> IntArray:
    """The configurations of shape (n, items) that are neither in ``known`` (rows of entries as bytes) nor repeated."""
    entries = landscape.entries(options)
    seen, kept = set(known), []
    for row, entry in enumerate(entries):
        if (key := entry.tobytes()) not in seen:
            seen.add(key)
            kept.append(row)
    return options[kept]
