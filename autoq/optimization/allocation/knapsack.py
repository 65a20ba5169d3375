"""Multiple-choice knapsacks: one item of each class, the least total loss within a budget of total cost.

Classes are given as two lists of arrays of shape (items,): int64 costs, compared and added as integers, and float64
losses. The exact solution comes from dynamic programming over the few items that the Lagrangian bound leaves
(Pisinger, "A minimal algorithm for the multiple-choice knapsack problem", EJOR 1995; the words are those of Kellerer,
Pferschy and Pisinger, "Knapsack Problems", 2004, chapter 11).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]

# Why not a general solver: HiGHS (scipy.optimize.milp) finds the same losses in 32 to 52 times the processor time
# (benchmarks/allocation.py, docs/search_quality.md).
_MAX_STATES = 1 << 17
"""States of the dynamic program beyond which only the most promising are kept, and the solution is not proven."""


def pareto(costs: IntArray, losses: FloatArray, groups: IntArray | None = None) -> IntArray:
    """Find the items that no other is at most as expensive and at most as lossy as.

    Args:
        costs: (items,).
        losses: (items,); items whose loss is NaN or infinite are left out.
        groups: (items,) numbers from 0 on; items are compared within their group only. None: all are compared.

    Returns:
        (kept,) indices by ascending group, then cost; of equal items the first is kept.

    >>> pareto(np.array([3, 1, 2]), np.array([0.1, 0.5, 0.7]))
    array([1, 0])
    """
    usable = np.flatnonzero(np.isfinite(losses))
    if groups is None:
        ordered = usable[np.lexsort((losses[usable], costs[usable]))]
        least = np.minimum.accumulate(np.concatenate([[np.inf], losses[ordered]]))[:-1]
        return np.asarray(ordered[losses[ordered] < least])
    group = groups[usable]
    order = np.lexsort((losses[usable], costs[usable], group))
    # Ranks in place of losses, and those of each group below those of the last one: one running minimum serves all.
    distinct, ranks = np.unique(losses[usable], return_inverse=True)
    height = (ranks - group * len(distinct))[order]
    kept = np.ones(len(order), dtype=bool)
    kept[1:] = height[1:] < np.minimum.accumulate(height)[:-1]
    return usable[order[kept]]


class Knapsack:
    """A knapsack without its dominated items, solved for one budget after another.

    >>> knapsack = Knapsack([np.array([1, 4]), np.array([2, 3])], [np.array([0.9, 0.1]), np.array([0.5, 0.3])])
    >>> knapsack.exact(budget=6, gap=0)
    (array([1, 0]), True)
    """

    def __init__(self, costs: Sequence[IntArray], losses: Sequence[FloatArray]) -> None:
        """Take the costs and losses of each class; each needs an item with a finite loss."""
        self._kept = [pareto(cost, loss) for cost, loss in zip(costs, losses, strict=True)]
        # (classes, most items); unused places cost nothing and lose infinitely much.
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
        """The least cost of a solution: the least budget that can be kept."""
        return int(self._cost[:, 0].sum())

    def bound(self, budget: int) -> float:
        """Bound the least loss within ``budget`` from below; needs ``budget >= least_cost``, as all methods do."""
        rate = self._edge(budget)[0]
        return math.fsum((self._loss + rate * self._cost).min(axis=1)) - rate * budget

    def relaxed(self, budget: int) -> IntArray:
        """Find a good solution within ``budget``: the Lagrangian relaxation, and greedy changes in what is left.

        Returns:
            (classes,) the item of each class.
        """
        return self._original(self._near_best(budget)[1])

    def exact(self, budget: int, gap: float) -> tuple[IntArray, bool]:
        """Find the solution of least loss within ``budget``.

        Returns:
            (classes,) the item of each class, and whether no solution is better by more than ``gap`` × loss.
        """
        rate, near = self._near_best(budget)
        better, is_proven = self._improve(rate, near, budget, gap)
        return self._original(better), is_proven

    def _original(self, items: IntArray) -> IntArray:
        """Number items as they were given, dominated ones included."""
        return np.array([kept[item] for kept, item in zip(self._kept, items, strict=True)], dtype=np.int64)

    def _total(self, items: IntArray) -> tuple[int, float]:
        return int(self._cost[self._rows, items].sum()), math.fsum(self._loss[self._rows, items])

    def _near_best(self, budget: int) -> tuple[float, IntArray]:
        """Find the multiplier of ``_edge``, and the best solution reached from its ends."""
        rate, *ends = self._edge(budget)
        if not rate:
            return rate, ends[0]
        filled = [self._fill(start, budget, by_rate) for start in ends for by_rate in (True, False)]
        return rate, min(filled, key=lambda items: self._total(items)[1])

    def _edge(self, budget: int) -> tuple[float, IntArray, IntArray]:
        """Find the Lagrange multiplier (loss per unit of cost) of the highest bound; the solutions below and above."""
        below, above = np.zeros_like(self._last), self._last
        (low, low_loss), (high, high_loss) = self._total(below), self._total(above)
        if high <= budget:
            return 0.0, above, above
        # The multiplier at which both are equally good, and what is best there, in place of one of them: each is a
        # corner of the convex hull of (cost, loss), so that this ends with the edge that crosses the budget.
        while True:
            rate = (low_loss - high_loss) / (high - low)
            items = np.argmin(self._loss + rate * self._cost, axis=1)
            cost, loss = self._total(items)
            if not low < cost < high or (low_loss - loss) + rate * (low - cost) <= 1e-13 * (low_loss - high_loss):
                break
            if cost <= budget:
                below, low, low_loss = items, cost, loss
            else:
                above, high, high_loss = items, cost, loss
        return rate, below, above

    def _fill(self, items: IntArray, budget: int, by_rate: bool) -> IntArray:
        """Change one class after another: down to the budget by the least loss, then up into what is left of it."""
        items = items.copy()
        slack = budget - self._total(items)[0]
        more = self._cost - self._cost[self._rows, items][:, None]
        gain = self._loss[self._rows, items][:, None] - self._loss
        while True:
            if slack < 0:  # the least loss for what it saves, or for what must be saved
                saved = np.minimum(-more, -slack) if not by_rate else -more
                worth = np.where(more < 0, gain / np.maximum(saved, 1), -np.inf)
            else:
                fits = (more <= slack) & (gain > 0)
                worth = np.where(fits, gain / np.maximum(more, 1) if by_rate else gain, -np.inf)
            best = int(np.argmax(worth))
            row, item = divmod(best, worth.shape[1])
            if worth[row, item] == -np.inf:
                return items
            slack -= int(more[row, item])
            items[row] = item
            more[row] = self._cost[row] - self._cost[row, item]
            gain[row] = self._loss[row, item] - self._loss[row]

    def _improve(self, rate: float, best: IntArray, budget: int, gap: float) -> tuple[IntArray, bool]:
        """Search for a better solution than ``best``, by dynamic programming over the items that one can contain.

        With the item of least ``loss + rate * cost`` of each class as its ``free`` item, any loss within the budget is
        the bound plus the reduced losses of its items plus rate × what it leaves of the budget.
        """
        score = self._loss + rate * self._cost  # (classes, items)
        free = np.argmin(score, axis=1)
        reduced = score - score[self._rows, free][:, None]
        best_loss = self._total(best)[1]
        free_cost, free_loss = self._total(free)
        tolerance = gap * abs(best_loss) + 1e-14 * (abs(best_loss) + abs(free_loss))
        # How much better than the best so far anything could be, before its reduced losses.
        room = best_loss - free_loss - rate * (free_cost - budget)
        if room <= tolerance:
            return best, True
        core = self._core(reduced, free, room)
        program = _DynamicProgram(rate, room, tolerance, free_cost - budget)
        for members, reach in zip(core, _reaches(core), strict=True):
            if not program.extend(members, reach):
                break
        if program.found is not None:
            changed = free.copy()
            for row, item in program.solution(core):
                changed[row] = item
            best = changed if self._total(changed)[1] < best_loss else best
        return best, program.is_proven

    def _core(self, reduced: FloatArray, free: IntArray, room: float) -> list[_CoreClass]:
        """Find the classes with more than their free item within ``room``, those with the cheapest changes first."""
        core = []
        for row in self._rows:
            items = np.flatnonzero(reduced[row] <= room)
            if len(items) > 1:
                changes = self._cost[row, items] - self._cost[row, free[row]]
                core.append(_CoreClass(int(row), items, changes, reduced[row, items]))
        return sorted(core, key=lambda members: float(np.partition(members.reduced, 1)[1]))


@dataclass(frozen=True, eq=False)
class _CoreClass:
    """A class of which more than one item can be part of a better solution.

    Attributes:
        row: its number.
        items: (candidates,) those that can.
        changes: (candidates,) what they cost more than the class's free item.
        reduced: (candidates,) their reduced losses.
    """

    row: int
    items: IntArray
    changes: IntArray
    reduced: FloatArray


def _reaches(core: Sequence[_CoreClass]) -> list[tuple[int, int]]:
    """Bound for each class by how much those after it can change the cost, down and up."""
    downward = accumulate((int(members.changes.min()) for members in core[:0:-1]), initial=0)
    upward = accumulate((int(members.changes.max()) for members in core[:0:-1]), initial=0)
    return list(zip(downward, upward, strict=True))[::-1] if core else []


class _DynamicProgram:
    """Partial solutions, extended by one class after another.

    A state is a partial solution that no other is better than: its cost above the budget with the classes to come at
    their free items (``over``), and the sum of its reduced losses (``lost``), both of shape (states,).

    Attributes:
        found: the step after which the best solution so far was complete, and its state; None if there is none.
        is_proven: whether no state that could have led to a better solution was dropped.
    """

    def __init__(self, rate: float, room: float, tolerance: float, over: int) -> None:
        """Start from all classes at their free items."""
        self._rate, self._room, self._tolerance = rate, room, tolerance
        self._over, self._lost = np.array([over]), np.zeros(1)
        self._history: list[tuple[IntArray, IntArray]] = []
        self.found: tuple[int, int] | None = None
        self.is_proven = True

    def extend(self, members: _CoreClass, reach: tuple[int, int]) -> bool:
        """Add a class, given by how much those to come can change the cost; return whether any state is left."""
        downward, upward = reach
        over = (self._over[:, None] + members.changes).ravel()  # (states × candidates,)
        lost = (self._lost[:, None] + members.reduced).ravel()
        final = self._final(over, lost)
        least = int(np.argmin(final))
        is_better = bool(final[least] < self._room)
        self._room = min(self._room, float(final[least]))
        unused = np.maximum(-over - upward, 0)
        alive = (over + downward <= 0) & (lost + self._rate * unused < self._room - self._tolerance)
        if is_better:
            alive[least] = True
        kept = np.flatnonzero(alive)
        kept = kept[pareto(over[kept], lost[kept] - self._rate * over[kept])]
        kept = self._most_promising(kept, over, lost)
        count = len(members.items)
        self._history.append((kept // count, members.items[kept % count]))
        self._over, self._lost = over[kept], lost[kept]
        if is_better:
            self.found = len(self._history) - 1, int(np.argmin(self._final(self._over, self._lost)))
        return len(kept) > 0

    def _final(self, over: IntArray, lost: FloatArray) -> FloatArray:
        """(states,) what each loses above the bound if it is taken as it is; infinite beyond the budget."""
        return np.where(over <= 0, lost - self._rate * over, np.inf)

    def _most_promising(self, kept: IntArray, over: IntArray, lost: FloatArray) -> IntArray:
        """Keep ``_MAX_STATES`` of the states, the best solution so far among them."""
        if len(kept) <= _MAX_STATES:
            return kept
        self.is_proven = False
        promise = lost[kept] + self._rate * np.maximum(-over[kept], 0)
        promise[(over[kept] <= 0) & (promise <= self._room)] = 0
        return kept[np.sort(np.argpartition(promise, _MAX_STATES)[:_MAX_STATES])]

    def solution(self, core: Sequence[_CoreClass]) -> list[tuple[int, int]]:
        """Trace the best solution back: (class, item) of every class up to the step that completed it."""
        if self.found is None:
            return []
        step, state = self.found
        chosen = []
        for members, (parents, items) in zip(core[step::-1], self._history[step::-1], strict=True):
            chosen.append((members.row, int(items[state])))
            state = int(parents[state])
        return chosen
