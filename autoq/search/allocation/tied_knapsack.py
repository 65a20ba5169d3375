"""Multiple-choice knapsacks whose items are tied: some options of one item go only with some of another.

Ties are given as an array of shape (options, ties) for each item: the choice, counted from 0, that an option takes of
each tie, or −1 in the whole column where a tie does not bind the item. All items that a tie binds take the same choice.

Tied items become one item where the combinations that nothing dominates are few enough to be listed. Elsewhere the
choices of a tie are tried one by one (branch and bound), which leaves fewer ties, and in the end none.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from autoq.search.allocation.knapsack import FloatArray, IntArray, Knapsack, pareto

_MAX_COMBINATIONS = 4096
"""Combinations that tied items may have together to be listed as one."""
_MAX_PAIRS = 1 << 22
"""Combinations that may be looked at to find them."""
_MAX_LEAVES = 2000
"""Knapsacks that are solved under one choice of ties after another before a solution is left unproven."""
_NONE: IntArray = np.array([], dtype=np.int64)


@dataclass(frozen=True, eq=False)
class _Joined:
    """Items taken together, as one.

    Attributes:
        items: which.
        options: (combinations, items) the option of each of them.
        costs: (combinations,) their sum.
        losses: (combinations,) their sum.
        ties: (combinations, ties) as for a single item.
    """

    items: tuple[int, ...]
    options: IntArray
    costs: IntArray
    losses: FloatArray
    ties: IntArray

    def undominated(self, open_ties: IntArray) -> _Joined:
        """Without what another combination with the same choices of ``open_ties`` (indices) dominates."""
        groups = None
        if len(open_ties) and len(self.costs):
            groups = np.unique(self.ties[:, open_ties], axis=0, return_inverse=True)[1].ravel()
        kept = pareto(self.costs, self.losses, groups)
        return _Joined(self.items, self.options[kept], self.costs[kept], self.losses[kept], self.ties[kept])

    def with_item(self, other: _Joined) -> _Joined:
        """All combinations with those of another that agree in their ties."""
        agree = np.ones((len(self.costs), len(other.costs)), dtype=bool)
        for mine, theirs in zip(self.ties.T, other.ties.T, strict=True):
            if (mine >= 0).any() and (theirs >= 0).any():
                agree &= mine[:, None] == theirs
        left, right = np.nonzero(agree)
        return _Joined(
            self.items + other.items,
            np.concatenate([self.options[left], other.options[right]], axis=1),
            self.costs[left] + other.costs[right],
            self.losses[left] + other.losses[right],
            np.maximum(self.ties[left], other.ties[right]),
        )


class TiedKnapsack:
    """A knapsack with ties, solved for one budget after another."""

    def __init__(self, costs: Sequence[IntArray], losses: Sequence[FloatArray], ties: Sequence[IntArray]) -> None:
        """Join what can be joined; options whose loss is NaN or infinite are not used."""
        self._costs, self._losses, self._ties = costs, losses, ties
        self._parts: list[_Joined] = []
        self._branch: int | None = None
        singles = [
            _Joined((item,), np.arange(len(cost))[:, None], cost, loss, tied).undominated(np.flatnonzero(tied[0] >= 0))
            for item, (cost, loss, tied) in enumerate(zip(costs, losses, ties, strict=True))
        ]
        for items, tied in _components(ties):
            joined = _join([singles[item] for item in items])
            if joined is not None:
                self._parts.append(joined)
                continue
            self._parts += [singles[item].undominated(_NONE) for item in items]  # as if it had no ties
            if self._branch is None:  # the tie that binds most
                self._branch = max(tied, key=lambda tie: sum(int(ties[item][0, tie] >= 0) for item in items))
        self._children: list[TiedKnapsack] | None = None
        # Without its ties where it has any left to branch on: a relaxation.
        self._possible = all(len(part.costs) for part in self._parts)
        self._knapsack = Knapsack([p.costs for p in self._parts], [p.losses for p in self._parts])

    @cached_property
    def least_cost(self) -> int | None:
        """The least cost of options that agree in their ties; None if none with finite losses do."""
        if self._branch is None:
            return self._knapsack.least_cost if self._possible else None
        # Without losses to weigh, fewer combinations are left: few problems need to branch here.
        flat = [np.where(np.isfinite(loss), 0.0, np.inf) for loss in self._losses]
        return TiedKnapsack(self._costs, flat, self._ties)._least_of_branches(math.inf)

    def _least_of_branches(self, known: float) -> int | None:
        """The least cost, or None if it is not below ``known``."""
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
        """The problem under each choice of one tie, that tie gone; without those that leave an item no option."""
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
        """As ``Knapsack.relaxed`` where all tied items could be joined, else the exact solution.

        Needs ``budget >= least_cost``, as ``exact`` does.
        """
        if self._branch is not None:
            return self.exact(budget, 1e-6)[0]
        return self._options(self._knapsack.relaxed(budget))

    def exact(self, budget: int, gap: float) -> tuple[IntArray, bool]:
        """The options of least loss within ``budget``, and whether none can be better by more than ``gap`` × loss."""
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
                options = node._options(chosen)
                loss = math.fsum(loss[option] for loss, option in zip(self._losses, options, strict=True))
                proven &= exact
                if loss < best_loss:
                    best, best_loss = options, loss
                return
            children = [child for child in node._branches() if child._knapsack.least_cost <= budget]
            bounds = [child._knapsack.bound(budget) for child in children]
            for index in sorted(range(len(children)), key=bounds.__getitem__):
                visit(children[index], bounds[index])

        visit(self, -math.inf)
        if best is None:
            raise ValueError(f"budget {budget} is below the least cost, {self.least_cost}")
        return best, proven

    def _options(self, chosen: IntArray) -> IntArray:
        options = np.zeros(len(self._costs), dtype=np.int64)
        for part, combination in zip(self._parts, chosen, strict=True):
            options[list(part.items)] = part.options[combination]
        return options


def _components(ties: Sequence[IntArray]) -> list[tuple[list[int], list[int]]]:
    """Items that ties link, directly or through others, and these ties."""
    components: list[tuple[set[int], set[int]]] = [({item}, set()) for item in range(len(ties))]
    for tie in range(ties[0].shape[1]):
        bound = {item for item, choices in enumerate(ties) if choices[0, tie] >= 0}
        linked = [component for component in components if component[0] & bound]
        components = [component for component in components if not component[0] & bound]
        components.append((set().union(*(c[0] for c in linked)), {tie}.union(*(c[1] for c in linked))))
    return [(sorted(items), sorted(tied)) for items, tied in components if items]


def _join(parts: Sequence[_Joined]) -> _Joined | None:
    """All parts as one; None if there are too many combinations."""
    joined = parts[0]
    for done, part in enumerate(parts[1:], start=2):
        if len(joined.costs) * len(part.costs) > _MAX_PAIRS:
            return None
        ahead = [(later.ties >= 0).any(axis=0) for later in parts[done:]]
        joined = joined.with_item(part).undominated(np.flatnonzero(np.any(ahead, axis=0)) if ahead else _NONE)
        if len(joined.costs) > _MAX_COMBINATIONS:
            return None
    return joined.undominated(_NONE)
