"""Multiple-choice knapsacks whose classes are tied: some items of one class go only with some of another.

Ties are given as an array of shape (items, ties) for each class: the choice, counted from 0, that an item takes of
each tie, or −1 in the whole column where a tie does not bind the class. All classes that a tie binds take the same
choice.

Tied classes become one class where the combinations that nothing dominates are few enough to be listed. Elsewhere the
choices of a tie are tried one by one (branch and bound), which leaves fewer ties, and in the end none.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from autoq.optimization.allocation.knapsack import FloatArray, IntArray, Knapsack, pareto

_MAX_COMBINATIONS = 4096
"""Combinations that tied classes may have together to be listed as one class."""
_MAX_PAIRS = 1 << 22
"""Combinations that may be compared to find them."""
_MAX_LEAVES = 2000
"""Knapsacks that are solved under one choice of ties after another before a solution is left unproven."""
_NONE: IntArray = np.array([], dtype=np.int64)


@dataclass(frozen=True, eq=False)
class _JoinedClasses:
    """Classes taken together as one, whose items are combinations of theirs.

    Attributes:
        classes: their numbers.
        items: (combinations, classes) the item of each of them.
        costs: (combinations,) their sum.
        losses: (combinations,) their sum.
        ties: (combinations, ties) as for a single class.
    """

    classes: tuple[int, ...]
    items: IntArray
    costs: IntArray
    losses: FloatArray
    ties: IntArray

    def undominated(self, open_ties: IntArray) -> _JoinedClasses:
        """Drop what another combination with the same choices of ``open_ties`` (indices) dominates."""
        groups = None
        if len(open_ties) and len(self.costs):
            groups = np.unique(self.ties[:, open_ties], axis=0, return_inverse=True)[1].ravel()
        kept = pareto(self.costs, self.losses, groups)
        return _JoinedClasses(self.classes, self.items[kept], self.costs[kept], self.losses[kept], self.ties[kept])

    def with_class(self, other: _JoinedClasses) -> _JoinedClasses:
        """Combine with all items of another that agree in their ties."""
        agree = np.ones((len(self.costs), len(other.costs)), dtype=bool)
        for mine, theirs in zip(self.ties.T, other.ties.T, strict=True):
            if (mine >= 0).any() and (theirs >= 0).any():
                agree &= mine[:, None] == theirs
        left, right = np.nonzero(agree)
        return _JoinedClasses(
            self.classes + other.classes,
            np.concatenate([self.items[left], other.items[right]], axis=1),
            self.costs[left] + other.costs[right],
            self.losses[left] + other.losses[right],
            np.maximum(self.ties[left], other.ties[right]),
        )


class TiedKnapsack:
    """A knapsack with ties, solved for one budget after another.

    >>> costs, losses = [np.array([1, 4]), np.array([2, 3])], [np.array([0.9, 0.1]), np.array([0.5, 0.3])]
    >>> tied = np.array([[0], [1]])  # both classes take their first item, or both their second
    >>> TiedKnapsack(costs, losses, [tied, tied]).exact(budget=6, gap=0)
    (array([0, 0]), True)
    """

    def __init__(self, costs: Sequence[IntArray], losses: Sequence[FloatArray], ties: Sequence[IntArray]) -> None:
        """Join the classes that can be joined; items whose loss is NaN or infinite are not used."""
        self._costs, self._losses, self._ties = costs, losses, ties
        self._joined: list[_JoinedClasses] = []
        self._branch: int | None = None
        singles = [
            _JoinedClasses((row,), np.arange(len(cost))[:, None], cost, loss, tied)
            for row, (cost, loss, tied) in enumerate(zip(costs, losses, ties, strict=True))
        ]
        for classes, tied in _components(ties):
            joined = _join([singles[row] for row in classes])
            if joined is not None:
                self._joined.append(joined)
                continue
            self._joined += [singles[row].undominated(_NONE) for row in classes]  # as if it had no ties
            if self._branch is None:  # the tie that binds most
                self._branch = max(tied, key=lambda tie: sum(int(ties[row][0, tie] >= 0) for row in classes))
        self._children: list[TiedKnapsack] | None = None
        # Without its ties where it has any left to branch on: a relaxation.
        self._possible = all(len(joined.costs) for joined in self._joined)
        self._knapsack = Knapsack([c.costs for c in self._joined], [c.losses for c in self._joined])

    @cached_property
    def least_cost(self) -> int | None:
        """The least cost of a solution that keeps the ties; None if none of finite loss does."""
        if self._branch is None:
            return self._knapsack.least_cost if self._possible else None
        # Without losses to weigh, fewer combinations are left: few problems need to branch here.
        flat = [np.where(np.isfinite(loss), 0.0, np.inf) for loss in self._losses]
        return TiedKnapsack(self._costs, flat, self._ties)._least_of_branches(math.inf)

    def _least_of_branches(self, known: float) -> int | None:
        """Find the least cost, or None if it is not below ``known``."""
        if not self._possible or self._knapsack.least_cost >= known:
            return None
        if self._branch is None:
            return self._knapsack.least_cost
        best: int | None = None
        for child in sorted(self._branches(), key=lambda child: child._knapsack.least_cost):
            found = child._least_of_branches(known if best is None else best)
            best = best if found is None else found
        return best

    def _branches(self) -> list[TiedKnapsack]:
        """Make the problem under each choice of one tie, without that tie; leave out those with an empty class."""
        tie = self._branch
        if self._children is None and tie is not None:
            self._children = []
            for choice in range(1 + max(int(ties[:, tie].max()) for ties in self._ties)):
                losses = [
                    loss if ties[0, tie] < 0 else np.where(ties[:, tie] == choice, loss, np.inf)
                    for loss, ties in zip(self._losses, self._ties, strict=True)
                ]
                child = TiedKnapsack(self._costs, losses, [np.delete(ties, tie, axis=1) for ties in self._ties])
                if child._possible:
                    self._children.append(child)
        return self._children or []

    def relaxed(self, budget: int) -> IntArray:
        """Find a good solution as ``Knapsack.relaxed`` does where all tied classes could be joined, else the exact one.

        Needs ``budget >= least_cost``, as ``exact`` does.
        """
        if self._branch is not None:
            return self.exact(budget, 1e-6)[0]
        return self._items(self._knapsack.relaxed(budget))

    def exact(self, budget: int, gap: float) -> tuple[IntArray, bool]:
        """Find the solution of least loss within ``budget``.

        Returns:
            (classes,) the item of each class, and whether no solution is better by more than ``gap`` × loss.

        Raises:
            ValueError: no solution keeps the budget.
        """
        best: IntArray | None = None
        best_loss = math.inf
        proven = True
        leaves = 0

        def visit(node: TiedKnapsack, bound: float) -> None:
            nonlocal best, best_loss, proven, leaves
            if best is not None and bound >= best_loss - gap * abs(best_loss):
                return
            if node._branch is None:
                if best is not None and leaves >= _MAX_LEAVES:
                    proven = False
                    return
                leaves += 1
                chosen, exact = node._knapsack.exact(budget, gap)
                items = node._items(chosen)
                loss = math.fsum(loss[item] for loss, item in zip(self._losses, items, strict=True))
                proven &= exact
                if loss < best_loss:
                    best, best_loss = items, loss
                return
            children = [child for child in node._branches() if child._knapsack.least_cost <= budget]
            bounds = [child._knapsack.bound(budget) for child in children]
            for index in sorted(range(len(children)), key=bounds.__getitem__):
                visit(children[index], bounds[index])

        visit(self, -math.inf)
        if best is None:
            raise ValueError(f"budget {budget} is below the least cost, {self.least_cost}")
        return best, proven

    def _items(self, chosen: IntArray) -> IntArray:
        items = np.zeros(len(self._costs), dtype=np.int64)
        for joined, combination in zip(self._joined, chosen, strict=True):
            items[list(joined.classes)] = joined.items[combination]
        return items


def _components(ties: Sequence[IntArray]) -> list[tuple[list[int], list[int]]]:
    """Find the classes that ties link, directly or through others, and these ties."""
    components: list[tuple[set[int], set[int]]] = [({row}, set()) for row in range(len(ties))]
    for tie in range(ties[0].shape[1]):
        bound = {row for row, choices in enumerate(ties) if choices[0, tie] >= 0}
        linked = [component for component in components if component[0] & bound]
        components = [component for component in components if not component[0] & bound]
        components.append((set().union(*(c[0] for c in linked)), {tie}.union(*(c[1] for c in linked))))
    return [(sorted(classes), sorted(tied)) for classes, tied in components if classes]


def _join(classes: Sequence[_JoinedClasses]) -> _JoinedClasses | None:
    """Join all classes into one; None if there are too many combinations."""
    if len(classes) > 1:
        classes = [each.undominated(np.flatnonzero(each.ties[0] >= 0)) for each in classes]
    joined = classes[0]
    for done, added in enumerate(classes[1:], start=2):
        if len(joined.costs) * len(added.costs) > _MAX_PAIRS:
            return None
        ahead = [(later.ties >= 0).any(axis=0) for later in classes[done:]]
        joined = joined.with_class(added).undominated(np.flatnonzero(np.any(ahead, axis=0)) if ahead else _NONE)
        if len(joined.costs) > _MAX_COMBINATIONS:
            return None
    return joined.undominated(_NONE)
