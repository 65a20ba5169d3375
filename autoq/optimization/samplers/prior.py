"""The knowledge of samplers before the first trial: exact costs, and sensitivities that add up."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from autoq.optimization.allocation.problem import Allocation, AllocationProblem, Table
from autoq.recipe import OperandConfig
from autoq.sensitivity.table import SensitivityTable


@dataclass(frozen=True, eq=False)
class AllocationPrior:
    """An allocation problem, and the loss of every option alone.

    Attributes:
        problem: options, costs and ties.
        table: the loss of each configuration of each operand when nothing else is quantized.
        budget_bops: most BOPs of a recipe that counts.
    """

    problem: AllocationProblem
    table: Table
    budget_bops: int

    @classmethod
    def of(cls, problem: AllocationProblem, table: SensitivityTable | None, budget_bops: int) -> AllocationPrior:
        """Make a prior of measured sensitivities; without them, all losses are zero and only costs are known."""

        def loss(site: str, operand: str, config: OperandConfig) -> float:
            return 0.0 if table is None else table.loss(site, operand, config)

        return cls(problem, problem.table(loss), budget_bops)

    @cached_property
    def least_bops(self) -> int:
        """The least that a recipe of configurations with finite losses costs."""
        problem = self.problem
        losses = problem.site_losses(self.table)
        costs = [np.where(np.isfinite(x), site.bops, np.inf) for site, x in zip(problem.sites, losses, strict=True)]
        enough = problem.fixed_bops + sum(int(site.bops.max()) for site in problem.sites)
        return problem.bops(problem.relaxed(costs, [enough])[0])

    def budget(self, position: int) -> int:
        """Choose a budget between the least cost and ``budget_bops``, even on a logarithmic scale; 0 gives the latter.

        Positions 1, 2, … are the van der Corput sequence from the top: any number of first ones is spread evenly.
        """
        share, unit, rest = 0.0, 0.5, position
        while rest:
            share += unit * (rest & 1)
            rest >>= 1
            unit /= 2
        # A hundredth more, so that the least budget leaves something to choose.
        lowest = min(self.budget_bops, round(1.01 * self.least_bops))
        return round(self.budget_bops * math.pow(lowest / self.budget_bops, share))

    def allocate(self, budget_bops: int) -> Allocation:
        """Allocate within a budget, exact to a thousandth of the loss."""
        return self.problem.allocate(self.table, budget_bops, gap=1e-3)
