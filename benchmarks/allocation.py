"""How fast exact allocation is, and how exact, beside a general solver.

Each case is solved for budgets spread evenly between the least and the greatest cost, by
``autoq.optimization.allocation`` and by HiGHS through ``scipy.optimize.milp``, both to a relative gap of 1e-6.
Printed are the seconds of processor time for all budgets, their ratio, and the greatest gap of each to the better
solution of both.

- ``bundled``: the sites of the bundled model in the space ``vit_w2-8``.
- ``tied``: the same with the bits of queries and keys tied across blocks.
- ``synthetic``: 150 sites with 60 combinations each.

Losses are synthetic and fixed by the seed: they fall fourfold with each bit, with factors of each operand and
option.
"""

from __future__ import annotations

import argparse
import math
import platform
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import scipy
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import coo_array

from autoq.cost import CostModel
from autoq.optimization.allocation.knapsack import FloatArray, IntArray
from autoq.optimization.allocation.problem import AllocationProblem
from autoq.optimization.allocation.tied_knapsack import TiedKnapsack
from autoq.optimization.space import parse_space, resolve_space
from autoq.optimization.space.loading import SPACES
from autoq.runs.session import Session

GAP = 1e-6
TIE = '\n[[ties]]\nmatch = "*.attn.qk:*"\nfields = ["bits"]\nby = "operand"\n'


@dataclass(frozen=True)
class Case:
    """A multiple-choice knapsack: for each class (items,) costs and losses, and (items, ties) choices."""

    costs: Sequence[IntArray]
    losses: Sequence[FloatArray]
    ties: Sequence[IntArray]

    def budgets(self, count: int) -> list[int]:
        """Spread budgets evenly, without the ends, where there is nothing to choose."""
        least = TiedKnapsack(self.costs, self.losses, self.ties).least_cost or 0
        most = sum(int(cost.max()) for cost in self.costs)
        return [int(least + (most - least) * (i + 1) / (count + 1)) for i in range(count)]

    def loss(self, items: Sequence[int]) -> float:
        """Add up the losses of one item a class."""
        return math.fsum(loss[item] for loss, item in zip(self.losses, items, strict=True))


def from_space(space: str, seed: int) -> Case:
    """Make the case of the bundled model in a search space, given as TOML text."""
    sites = Session.open("vit_digits", True, "cpu").traced.sites
    problem = AllocationProblem(CostModel(sites), resolve_space(parse_space(space), sites))
    rng = np.random.default_rng(seed)
    table = []
    for options in problem.options:
        bits, groups = np.array([c.bits for c in options]), np.array([c.groups for c in options])
        factors = 10 ** rng.uniform(-4, -1) * rng.lognormal(0, 0.1, len(options))
        table.append(4.0**-bits * np.where(groups > 1, 0.7, 1.0) * factors)
    return Case([s.cost for s in problem.sites], problem.site_losses(table), [s.ties for s in problem.sites])


def synthetic(classes: int, items: int, seed: int) -> Case:
    """Make a case whose costs are products of widths with a factor of each class."""
    rng = np.random.default_rng(seed)
    costs, losses = [], []
    for _ in range(classes):
        weight, activation = rng.integers(2, 9, items), rng.integers(2, 9, items)
        costs.append(int(rng.integers(10**6, 10**8)) * weight * activation)
        scales = 10 ** rng.uniform(-4, -1, 2)
        losses.append((scales[0] * 4.0**-weight + scales[1] * 4.0**-activation) * rng.lognormal(0, 0.2, items))
    return Case(costs, losses, [np.zeros((items, 0), dtype=np.int64)] * classes)


def by_autoq(case: Case, budgets: Sequence[int]) -> list[list[int]]:
    """Solve by dynamic programming over what the Lagrangian bound leaves."""
    knapsack = TiedKnapsack(case.costs, case.losses, case.ties)
    return [knapsack.exact(budget, GAP)[0].tolist() for budget in budgets]


def by_highs(case: Case, budgets: Sequence[int]) -> list[list[int]]:
    """Solve as a mixed-integer linear program: a binary variable for each item, and for each choice of a tie."""
    starts = np.concatenate([[0], np.cumsum([len(cost) for cost in case.costs])])
    entries: list[tuple[int, int, float]] = []  # (row, column, value)
    lower: list[float] = []
    columns = int(starts[-1])
    for number, start in enumerate(starts[:-1]):
        entries += [(number, int(start) + item, 1.0) for item in range(len(case.costs[number]))]
        lower.append(1.0)
    for tie in range(case.ties[0].shape[1]):
        choices = 1 + max(int(ties[:, tie].max()) for ties in case.ties)
        for number, ties in enumerate(case.ties):
            if ties[0, tie] < 0:
                continue
            for choice in range(choices):
                row = len(lower)
                taking = starts[number] + np.flatnonzero(ties[:, tie] == choice)
                entries += [(row, int(column), 1.0) for column in taking]
                entries.append((row, columns + choice, -1.0))
                lower.append(0.0)
        columns += choices
    rows, places, values = zip(*entries, strict=True)
    equal = LinearConstraint(coo_array((values, (rows, places)), shape=(len(lower), columns)).tocsr(), lower, lower)
    cost = np.concatenate([*case.costs, np.zeros(columns - starts[-1])]).astype(float)
    loss = np.concatenate([*case.losses, np.zeros(columns - starts[-1])])
    relaxed = TiedKnapsack(case.costs, case.losses, case.ties)
    solved = []
    for budget in budgets:
        # HiGHS stops at an absolute gap of 1e-6 as well, which scipy does not expose.
        scale = case.loss(relaxed.relaxed(budget).tolist()) / 1000
        within = LinearConstraint(cost[None] / budget, -np.inf, 1.0)
        found = milp(
            loss / scale, constraints=[equal, within], bounds=Bounds(0, 1), integrality=1, options={"mip_rel_gap": GAP}
        )
        assert found.success, found.message
        solved.append([int(found.x[a:b].argmax()) for a, b in pairwise(starts)])
    return solved


def main() -> None:
    """Print a table of all cases."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--budgets", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    machine = platform.processor() or platform.machine()
    print(f"{machine}, Python {platform.python_version()}, numpy {np.__version__}, scipy {scipy.__version__}")
    text = (SPACES.folder() / "vit_w2-8.toml").read_text(encoding="utf-8")
    cases = {
        "bundled": from_space(text, arguments.seed),
        "tied": from_space(text + TIE, arguments.seed),
        "synthetic": synthetic(150, 60, arguments.seed),
    }
    print("| case | sites | autoq, s | HiGHS, s | ratio | autoq, gap | HiGHS, gap |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for name, case in cases.items():
        budgets = case.budgets(arguments.budgets)
        seconds, losses = [], []
        for solve in (by_autoq, by_highs):
            started = time.process_time()
            solved = solve(case, budgets)
            seconds.append(time.process_time() - started)
            losses.append(np.array([case.loss(items) for items in solved]))
        best = np.minimum(*losses)
        gaps = [float((loss / best - 1).max()) for loss in losses]
        print(
            f"| {name} | {len(case.costs)} | {seconds[0]:.3f} | {seconds[1]:.2f} | {seconds[1] / seconds[0]:.0f} "
            f"| {gaps[0]:.1e} | {gaps[1]:.1e} |"
        )


if __name__ == "__main__":
    main()
