"""Allocation within several budgets at once: an integer linear program, solved exactly by HiGHS.

A column is a combination of a site. Costs that add up give one row each. The size of live activations gives one row for
each step of the model: where one operand alone reads elements, their bytes follow from the combination; where several
do, a column of its own is at least what each of them needs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.optimize import Bounds, LinearConstraint, linprog, milp
from scipy.sparse import coo_array, csr_array, vstack

from autoq.cost import CostModel
from autoq.cost.activations import packed_bytes
from autoq.optimization.allocation.combinations import SiteCombinations
from autoq.optimization.allocation.knapsack import FloatArray, IntArray
from autoq.recipe import FLOAT_BITS

_SECONDS = 60.0
"""After which the best solution that is known is taken, and is not proven."""
_ROUNDS = 8
"""Times that a limit is lowered by what rounding in the solver let through."""


@dataclass(frozen=True, eq=False)
class _Program:
    """Rows over the columns of all combinations, then those of elements that several operands read.

    Attributes:
        rows: (rows, columns), each scaled so that its limit is one, or zero.
        most: (rows,) these limits.
        equal: (sites and ties, columns) rows that are kept exactly.
        equal_to: (sites and ties,) what they add up to.
    """

    rows: csr_array
    most: FloatArray
    equal: csr_array
    equal_to: FloatArray


class SeveralBudgets:
    """The budgets of an allocation besides that of the cost that its front is over."""

    def __init__(self, sites: Sequence[SiteCombinations], others: Mapping[str, int], fixed: Mapping[str, int]) -> None:
        """Take the budgets.

        Args:
            sites: combinations, with these costs.
            others: kind of cost that adds up to what all sites may cost together.
            fixed: kind to the cost of what is not allocated.
        """
        self._sites = sites
        self._starts = np.concatenate([[0], np.cumsum([len(site.cost) for site in sites])]).astype(np.int64)
        self._sums = {
            name: (limit - fixed[name], [site.others[name] for site in sites]) for name, limit in others.items()
        }
        self._live: _LiveRows | None = None

    def limit_activations(self, costs: CostModel, limit: int) -> None:
        """Add a budget of live activations."""
        self._live = _LiveRows(self._sites, costs, limit)

    def satisfied(self, combinations: IntArray) -> npt.NDArray[np.bool_]:
        """Tell which configurations, of shape (n, sites), keep these budgets: (n,)."""
        kept = np.ones(len(combinations), dtype=bool)
        for limit, costs in self._sums.values():
            kept &= sum(cost[combinations[:, row]] for row, cost in enumerate(costs)) <= limit
        return kept if self._live is None else kept & (self._live.peaks(combinations) <= self._live.limit)

    def exact(self, losses: Sequence[FloatArray], budget: int | None, gap: float) -> tuple[IntArray, bool] | None:
        """Find the configuration of least loss within all budgets.

        Args:
            losses: (combinations,) of each site; infinite where unusable.
            budget: of the cost that the front is over; None: any.
            gap: how much better, relative to the loss, an undiscovered solution may be.

        Returns:
            (sites,) the combination of each site, and whether that is proven; None if nothing keeps all budgets.
        """
        kept = self._undominated(losses)
        loss = np.concatenate(losses)
        slack = 0.0
        for _ in range(_ROUNDS):
            program = self._program(kept, budget, 1 - slack)
            extra = program.rows.shape[1] - len(kept)
            found = milp(
                np.concatenate([loss[kept], np.zeros(extra)]),
                integrality=np.concatenate([np.ones(len(kept)), np.zeros(extra)]),
                bounds=Bounds(0, np.concatenate([np.ones(len(kept)), np.full(extra, np.inf)])),
                constraints=[
                    LinearConstraint(program.rows, ub=program.most),
                    LinearConstraint(program.equal, program.equal_to, program.equal_to),
                ],
                options={"mip_rel_gap": gap, "time_limit": _SECONDS},
            )
            if found.x is None:
                return None
            chosen = self._chosen(kept[np.flatnonzero(found.x[: len(kept)] > 0.5)])
            cost = sum(int(site.cost[c]) for site, c in zip(self._sites, chosen, strict=True))
            if (budget is None or cost <= budget) and self.satisfied(chosen[None])[0]:
                return chosen, found.status == 0
            slack = 2 * slack or 1e-7
        return None

    def penalties(self, losses: Sequence[FloatArray], budget: int | None) -> list[FloatArray]:
        """Price what combinations take of these budgets, in the unit of the loss: (combinations,) of each site.

        Prices are the duals of the linear relaxation; zero where it has no solution.
        """
        kept = self._undominated(losses)
        program = self._program(kept, budget, 1.0)
        extra = program.rows.shape[1] - len(kept)
        found = linprog(
            np.concatenate([np.concatenate(losses)[kept], np.zeros(extra)]),
            A_ub=program.rows,
            b_ub=program.most,
            A_eq=program.equal,
            b_eq=program.equal_to,
            bounds=(0, None),
        )
        every = np.arange(self._starts[-1])
        prices = np.zeros(len(every))
        if found.x is not None:
            rows = self._program(every, budget, 1.0).rows
            duals = -found.ineqlin.marginals
            if budget is not None:
                duals[0] = 0.0  # the budget that a knapsack keeps by itself
            prices = np.asarray(rows.T @ duals)[: len(every)]
        return [np.asarray(part) for part in np.split(prices, self._starts[1:-1])]

    def _chosen(self, columns: IntArray) -> IntArray:
        rows = np.searchsorted(self._starts, columns, side="right") - 1
        chosen = np.zeros(len(self._sites), dtype=np.int64)
        chosen[rows] = columns - self._starts[rows]
        return chosen

    def _undominated(self, losses: Sequence[FloatArray]) -> IntArray:
        """List the columns that no other of their site and ties is at most as dear as, in everything that counts."""
        kept = []
        for row, (site, loss) in enumerate(zip(self._sites, losses, strict=True)):
            amounts = [site.cost, *(costs[row] for _, costs in self._sums.values()), loss]
            if self._live is not None:
                amounts += list(site.bits.T)
            usable = np.flatnonzero(np.isfinite(loss))
            table = np.stack(amounts, axis=1)[usable].astype(np.float64)  # (usable, amounts)
            for number, amount in enumerate(table):
                same = (site.ties[usable] == site.ties[usable[number]]).all(1)
                no_worse = (table <= amount).all(1) & same
                better = no_worse & ((table < amount).any(1) | (np.arange(len(table)) < number))
                if not better.any():
                    kept.append(self._starts[row] + usable[number])
        return np.array(kept, dtype=np.int64)

    def _program(self, kept: IntArray, budget: int | None, most: float) -> _Program:
        """Make the rows over the columns that are kept; limits are multiplied by ``most``."""
        rows: list[csr_array] = []
        limits: list[FloatArray] = []
        sums = [(limit, np.concatenate(costs)) for limit, costs in self._sums.values()]
        if budget is not None:
            sums.insert(0, (budget, np.concatenate([site.cost for site in self._sites])))
        shared = 0 if self._live is None else self._live.shared
        for limit, cost in sums:
            scaled = cost[kept] / (max(limit, 1) * most)
            rows.append(csr_array(np.concatenate([scaled, np.zeros(shared)])[None]))
            limits.append(np.ones(1))
        if self._live is not None:
            of_steps, their_limits = self._live.rows(kept, self._starts, most)
            rows.append(of_steps)
            limits.append(their_limits)
        equal, equal_to = self._equalities(kept, shared)
        return _Program(csr_array(vstack(rows)), np.concatenate(limits), equal, equal_to)

    def _equalities(self, kept: IntArray, shared: int) -> tuple[csr_array, FloatArray]:
        """Make the rows that give each site one combination, and tied sites the same choices."""
        site_of = np.searchsorted(self._starts, kept, side="right") - 1
        count = len(self._sites)
        rows = [(int(row), column, 1.0) for column, row in enumerate(site_of)]
        equal_to = [1.0] * count
        for tie in range(self._sites[0].ties.shape[1]):
            choice = np.concatenate([site.ties[:, tie] for site in self._sites])[kept]
            bound = [row for row in range(count) if (choice[site_of == row] >= 0).any()]
            for other in bound[1:]:
                for value in range(int(choice.max()) + 1):
                    for row, sign in ((bound[0], 1.0), (other, -1.0)):
                        columns = np.flatnonzero((site_of == row) & (choice == value))
                        rows += [(len(equal_to), int(column), sign) for column in columns]
                    equal_to.append(0.0)
        at, columns_at, weight = zip(*rows, strict=True)
        shape = len(equal_to), len(kept) + shared
        return csr_array(coo_array((weight, (at, columns_at)), shape=shape)), np.array(equal_to)


class _LiveRows:
    """The rows of a budget of live activations.

    Attributes:
        limit: the budget, in bytes.
        shared: how many columns stand for elements that several operands read.
    """

    def __init__(self, sites: Sequence[SiteCombinations], costs: CostModel, limit: int) -> None:
        live = costs.live
        if live is None:
            raise ValueError("the live activations of this model are not known")
        self.limit = limit
        self._steps = live.steps
        place = {
            (site.site, name): (row, column)
            for row, site in enumerate(sites)
            for column, name in enumerate(site.configs[0])
        }
        self._bits = [site.bits for site in sites]
        self._elements = np.array([region.elements for region in live.regions], dtype=np.int64)
        # Of each region, the (site, column) of its readers; none where anything reads floating point.
        self._readers = [
            [place[reader] for reader in region.readers if reader is not None]
            if all(reader in place for reader in region.readers)
            else []
            for region in live.regions
        ]
        self._shared = [region for region, readers in enumerate(self._readers) if len(readers) > 1]
        self.shared = len(self._shared)

    def peaks(self, combinations: IntArray) -> IntArray:
        """Count (n,) the bytes of configurations of shape (n, sites)."""
        sizes = np.stack([self._sizes(region, combinations) for region in range(len(self._elements))], axis=1)
        peaks: IntArray = np.max([sizes[:, list(step)].sum(1) for step in self._steps], axis=0)
        return peaks

    def _sizes(self, region: int, combinations: IntArray) -> IntArray:
        bits = [self._bits[row][combinations[:, row], column] for row, column in self._readers[region]]
        widest = np.max(bits, axis=0) if bits else np.full(len(combinations), FLOAT_BITS)
        sizes: IntArray = -(-self._elements[region] * widest // 8)
        return sizes

    def rows(self, kept: IntArray, starts: IntArray, most: float) -> tuple[csr_array, FloatArray]:
        """Make a row a step, and rows that keep shared columns above what each reader needs; and their limits."""
        site_of = np.searchsorted(starts, kept, side="right") - 1
        columns = [np.flatnonzero(site_of == row) for row in range(len(self._bits))]
        own = kept - starts[site_of]
        entries: list[tuple[int, int, float]] = []
        count = 0
        for step in self._steps:
            fixed = sum(packed_bytes(int(self._elements[r]), FLOAT_BITS) for r in step if not self._readers[r])
            scale = 1 / max(self.limit * most - fixed, 1e-3)
            for region in step:
                if region in self._shared:
                    entries.append((count, len(kept) + self._shared.index(region), scale))
                for row, column in self._readers[region] if len(self._readers[region]) == 1 else ():
                    entries += self._entries(count, region, (columns[row], own[columns[row]], row, column), scale)
            count += 1
        for number, region in enumerate(self._shared):
            for row, column in self._readers[region]:
                scale = 1 / max(1, int(self._elements[region]))
                entries += self._entries(count, region, (columns[row], own[columns[row]], row, column), scale)
                entries.append((count, len(kept) + number, -scale))
                count += 1
        at, at_column, value = zip(*entries, strict=True)
        limits = np.concatenate([np.ones(len(self._steps)), np.zeros(count - len(self._steps))])
        return csr_array(coo_array((value, (at, at_column)), shape=(count, len(kept) + self.shared))), limits

    def _entries(
        self, count: int, region: int, where: tuple[IntArray, IntArray, int, int], scale: float
    ) -> list[tuple[int, int, float]]:
        """List the bytes of a region in each combination of its reader's site."""
        columns, own, row, column = where
        sizes = -(-self._elements[region] * self._bits[row][own, column] // 8)
        return [(count, int(c), scale * float(size)) for c, size in zip(columns, sizes, strict=True)]
