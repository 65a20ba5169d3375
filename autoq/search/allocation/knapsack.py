"""Multiple-choice knapsacks: one option for each item, the least total loss within a budget of total cost.

Items are given as two lists of arrays of shape (options,): int64 costs, compared and added as integers, and float64
losses. The exact solution comes from dynamic programming over the few options that the Lagrangian bound leaves
(Pisinger, "A minimal algorithm for the multiple-choice knapsack problem", EJOR 1995).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]

_MAX_STATES = 1 << 17
"""States of the dynamic program beyond which only the most promising are kept, and the solution is not proven."""


def pareto(costs: IntArray, losses: FloatArray, groups: IntArray | None = None) -> IntArray:
    """Indices of the options that no other is at most as expensive and at most as lossy as, by ascending cost.

    Of equal options the first is kept; options whose loss is NaN or infinite are left out. With ``groups``, numbers
    from 0 on, options are compared within their group only, and sorted by group first.
    """
    usable = np.flatnonzero(np.isfinite(losses))
    group = np.zeros_like(usable) if groups is None else groups[usable]
    order = np.lexsort((losses[usable], costs[usable], group))
    # Ranks in place of losses, and those of each group below those of the last one: one running minimum serves all.
    distinct, ranks = np.unique(losses[usable], return_inverse=True)
    height = (ranks - group * len(distinct))[order]
    kept = np.ones(len(order), dtype=bool)
    kept[1:] = height[1:] < np.minimum.accumulate(height)[:-1]
    return usable[order[kept]]


class Knapsack:
    """A knapsack, its dominated options dropped; solved for one budget after another."""

    def __init__(self, costs: Sequence[IntArray], losses: Sequence[FloatArray]) -> None:
        """Prepare items; each needs an option with a finite loss."""
        self._kept = [pareto(cost, loss) for cost, loss in zip(costs, losses, strict=True)]
        shape = len(self._kept), max((len(kept) for kept in self._kept), default=1)
        self._cost = np.zeros(shape, dtype=np.int64)
        self._loss = np.full(shape, np.inf)
        for row, kept in enumerate(self._kept):
            self._cost[row, : len(kept)] = costs[row][kept]
            self._loss[row, : len(kept)] = losses[row][kept]
        self._rows = np.arange(len(self._kept))
        self._last = np.array([len(kept) - 1 for kept in self._kept], dtype=np.int64)

    @property
    def least_cost(self) -> int:
        """The least budget that can be kept."""
        return int(self._cost[:, 0].sum())

    def bound(self, budget: int) -> float:
        """What the least loss within ``budget`` cannot be below; needs ``budget >= least_cost``, as all below do."""
        rate = self._edge(budget)[0]
        return math.fsum((self._loss + rate * self._cost).min(axis=1)) - rate * budget

    def relaxed(self, budget: int) -> IntArray:
        """Options within ``budget``, near the best: the Lagrangian relaxation, and what still fits into the rest."""
        return self._original(self._near_best(budget)[1])

    def exact(self, budget: int, gap: float) -> tuple[IntArray, bool]:
        """The options of least loss within ``budget``, and whether none can be better by more than ``gap`` × loss."""
        rate, near = self._near_best(budget)
        better, proven = self._improve(rate, near, budget, gap)
        return self._original(better), proven

    def _original(self, options: IntArray) -> IntArray:
        return np.array([kept[option] for kept, option in zip(self._kept, options, strict=True)], dtype=np.int64)

    def _total(self, options: IntArray) -> tuple[int, float]:
        return int(self._cost[self._rows, options].sum()), math.fsum(self._loss[self._rows, options])

    def _near_best(self, budget: int) -> tuple[float, IntArray]:
        """The multiplier of ``_edge``, and the best options found from its ends."""
        rate, *ends = self._edge(budget)
        if not rate:
            return rate, ends[0]
        filled = [self._fill(start, budget, by_rate) for start in ends for by_rate in (True, False)]
        return rate, min(filled, key=lambda options: self._total(options)[1])

    def _edge(self, budget: int) -> tuple[float, IntArray, IntArray]:
        """The Lagrange multiplier (loss per unit of cost) of the highest bound; the best options below and above."""
        below, above = np.zeros_like(self._last), self._last
        (low, low_loss), (high, high_loss) = self._total(below), self._total(above)
        if high <= budget:
            return 0.0, above, above
        # The multiplier at which both are equally good, and what is best there, in place of one of them: each is a
        # corner of the convex hull of (cost, loss), so that this ends with the edge that crosses the budget.
        while True:
            rate = (low_loss - high_loss) / (high - low)
            options = np.argmin(self._loss + rate * self._cost, axis=1)
            cost, loss = self._total(options)
            if not low < cost < high or (low_loss - loss) + rate * (low - cost) <= 1e-13 * (low_loss - high_loss):
                break
            if cost <= budget:
                below, low, low_loss = options, cost, loss
            else:
                above, high, high_loss = options, cost, loss
        return rate, below, above

    def _fill(self, options: IntArray, budget: int, by_rate: bool) -> IntArray:
        """From ``options``, the best single changes one by one: down to the budget, then into what is left of it."""
        options = options.copy()
        slack = budget - self._total(options)[0]
        while True:
            more = self._cost - self._cost[self._rows, options][:, None]
            gain = self._loss[self._rows, options][:, None] - self._loss
            if slack < 0:  # the least loss for what it saves, or for what must be saved
                saved = np.minimum(-more, -slack) if not by_rate else -more
                worth = np.where(more < 0, gain / np.maximum(saved, 1), -np.inf)
            else:
                fits = (more <= slack) & (gain > 0)
                worth = np.where(fits, gain / np.maximum(more, 1) if by_rate else gain, -np.inf)
            best = int(np.argmax(worth))
            row, option = divmod(best, worth.shape[1])
            if worth[row, option] == -np.inf:
                return options
            slack -= int(more[row, option])
            options[row] = option

    def _improve(self, rate: float, best: IntArray, budget: int, gap: float) -> tuple[IntArray, bool]:
        """The best options, found by dynamic programming over those that can be part of anything better than ``best``.

        With the least ``loss + rate * cost`` of each item as ``free``, any loss within the budget is the bound plus the
        reduced losses of its options plus rate × what it leaves of the budget.
        """
        score = self._loss + rate * self._cost
        free = np.argmin(score, axis=1)
        reduced = score - score[self._rows, free][:, None]
        best_loss = self._total(best)[1]
        free_cost, free_loss = self._total(free)
        tolerance = gap * abs(best_loss) + 1e-14 * (abs(best_loss) + abs(free_loss))
        # How much better than the best so far anything could be, before its reduced losses.
        room = best_loss - free_loss - rate * (free_cost - budget)
        if room <= tolerance:
            return best, True
        candidates = [np.flatnonzero(row <= room) for row in reduced]
        core = [int(row) for row in self._rows if len(candidates[row]) > 1]  # of the others only ``free`` is left
        core.sort(key=lambda row: float(np.partition(reduced[row, candidates[row]], 1)[1]))
        changes = [self._cost[row, candidates[row]] - self._cost[row, free[row]] for row in core]
        downward = np.append(np.cumsum([change.min() for change in changes[::-1]])[::-1][1:], 0)
        upward = np.append(np.cumsum([change.max() for change in changes[::-1]])[::-1][1:], 0)

        over = np.array([free_cost - budget])  # cost above the budget with the items to come at ``free``
        lost = np.zeros(1)  # sum of reduced losses
        history: list[tuple[IntArray, IntArray]] = []
        found: tuple[int, int] | None = None
        proven = True
        for step, row in enumerate(core):
            options = candidates[row]
            next_over = (over[:, None] + changes[step]).ravel()
            next_lost = (lost[:, None] + reduced[row, options]).ravel()
            final = np.where(next_over <= 0, next_lost - rate * next_over, np.inf)
            least = int(np.argmin(final))
            better = bool(final[least] < room)
            room = min(room, float(final[least]))
            unused = np.maximum(-next_over - upward[step], 0)
            alive = (next_over + downward[step] <= 0) & (next_lost + rate * unused < room - tolerance)
            if better:
                alive[least] = True
            kept = np.flatnonzero(alive)
            kept = kept[pareto(next_over[kept], next_lost[kept] - rate * next_over[kept])]
            if len(kept) > _MAX_STATES:
                proven = False
                promise = next_lost[kept] + rate * np.maximum(-next_over[kept], 0)
                promise[(next_over[kept] <= 0) & (promise <= room)] = 0  # the best so far is among these
                kept = kept[np.sort(np.argpartition(promise, _MAX_STATES)[:_MAX_STATES])]
            history.append((kept // len(options), options[kept % len(options)]))
            over, lost = next_over[kept], next_lost[kept]
            if better:
                final = np.where(over <= 0, lost - rate * over, np.inf)
                found = step, int(np.argmin(final))
            if not len(kept):
                break
        if found is None:
            return best, proven
        result = free.copy()
        last, state = found
        for step in range(last, -1, -1):
            parents, chosen = history[step]
            result[core[step]] = chosen[state]
            state = int(parents[state])
        return (result if self._total(result)[1] < best_loss else best), proven
