"""The sampler that improves allocations by swaps."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from optuna.trial import FrozenTrial, TrialState

from autoq.optimization.allocation.knapsack import IntArray
from autoq.optimization.front import best_within
from autoq.optimization.samplers._base import BasePriorSampler, operand_columns, with_options
from autoq.optimization.samplers.prior import AllocationPrior
from autoq.recipe import OperandConfig

_BUDGETS = 12
"""Budgets whose allocations are refined."""
_SWAPS = 30
"""Swaps that are drawn until one is within the budget and new."""


class LampQSampler(BasePriorSampler):
    """Allocations for a few budgets, each improved by swaps of one bit up for another down.

    As LampQ does after its integer program: a swap is kept if the recipe it makes is better. A bit is a step to the
    next width that the space offers. Swaps start from the best trial within the budget whose turn it is.
    """

    def __init__(self, seed: int, prior: AllocationPrior) -> None:
        """Index the configurations of every operand."""
        super().__init__(seed, prior)
        self._columns = operand_columns(prior.problem)
        self._positions = {name: operand for operand, name in enumerate(prior.problem.operands)}
        # Of each operand; options that differ in bits alone stand side by side.
        self._by_bits = [
            [option for _, _, option in sorted((str(_family(c)), c.bits, option) for option, c in enumerate(configs))]
            for configs in prior.problem.options
        ]

    def propose(self, past: Sequence[FrozenTrial], rng: np.random.Generator) -> IntArray:
        """Propose the next allocation, (sites,), or else a swap."""
        done = {self.combinations_of(trial).tobytes() for trial in past}
        for position in range(_BUDGETS):
            if position not in self._by_position:
                self._by_position[position] = self._prior.allocate(self._prior.budget(position)).combinations
            if self._by_position[position].tobytes() not in done:
                return self._by_position[position]
        complete = [trial for trial in past if trial.state == TrialState.COMPLETE]
        budget = self._prior.budget(len(complete) % _BUDGETS)
        best = best_within([(trial.values[0], trial.values[1]) for trial in complete], budget)
        start = self.combinations_of(complete[best]) if best is not None else self._by_position[0]
        swapped = start
        for _ in range(_SWAPS):
            swapped = self._swap(start, rng)
            if self.problem.cost(swapped) <= budget and swapped.tobytes() not in done:
                break
        return swapped

    def _swap(self, combinations: IntArray, rng: np.random.Generator) -> IntArray:
        """Take one bit more at one operand and one less at another, where both have that choice."""
        swapped = combinations.copy()
        operands = rng.permutation(len(self.problem.operands))
        for change in (1, -1):
            for operand in operands:
                if (moved := self._moved(swapped, int(operand), change)) is not None:
                    swapped = moved
                    operands = operands[operands != operand]
                    break
        return swapped

    def _moved(self, combinations: IntArray, operand: int, change: int) -> IntArray | None:
        """Change one operand's bits, or those of its whole site where they are tied."""
        row, column = self._columns[operand]
        site = self.problem.sites[row]
        mine = [self._positions[site.site, name] for name in site.configs[0]]
        options = site.options[combinations[row]]
        changed = [self._changed(other, int(option), change) for other, option in zip(mine, options, strict=True)]
        alone = [changed[c] if c == column else int(option) for c, option in enumerate(options)]
        for wanted in (alone, changed):
            found = None if None in wanted else with_options(self.problem, row, combinations, wanted)
            if found is not None:
                return found
        return None

    def _changed(self, operand: int, option: int, change: int) -> int | None:
        """Find the option with the next width up or down, all else equal."""
        by_bits, configs = self._by_bits[operand], self.problem.options[operand]
        place = by_bits.index(option) + change
        same = 0 <= place < len(by_bits) and _family(configs[by_bits[place]]) == _family(configs[option])
        return by_bits[place] if same else None


def _family(config: OperandConfig) -> OperandConfig:
    """Make equal what differs in bits alone."""
    return config.model_copy(update={"bits": 1})
