"""The sampler that improves allocations by swaps."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from optuna.trial import FrozenTrial, TrialState

from autoq.recipe import OperandConfig
from autoq.search.front import best_within
from autoq.search.samplers._base import BasePriorSampler, places_of, with_entries
from autoq.search.samplers.landscape import IntArray
from autoq.search.samplers.prior import AllocationPrior

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
        self._places = places_of(prior.problem)
        self._positions = {operand: part for part, operand in enumerate(prior.problem.operands)}
        # Entries that differ in bits alone stand side by side.
        self._ladders = [
            [entry for _, _, entry in sorted((str(_family(c)), c.bits, entry) for entry, c in enumerate(configs))]
            for configs in prior.problem.operand_configs
        ]

    def propose(self, past: Sequence[FrozenTrial], rng: np.random.Generator) -> IntArray:
        """The next allocation, or else a swap."""
        done = {self.options_of(trial).tobytes() for trial in past}
        for position in range(_BUDGETS):
            if position not in self._by_position:
                self._by_position[position] = self._prior.allocate(self._prior.budget(position)).options
            if self._by_position[position].tobytes() not in done:
                return self._by_position[position]
        complete = [trial for trial in past if trial.state == TrialState.COMPLETE]
        budget = self._prior.budget(len(complete) % _BUDGETS)
        best = best_within([(trial.values[0], trial.values[1]) for trial in complete], budget)
        start = self.options_of(complete[best]) if best is not None else self._by_position[0]
        swapped = start
        for _ in range(_SWAPS):
            swapped = self._swap(start, rng)
            if self.problem.bops(swapped) <= budget and swapped.tobytes() not in done:
                break
        return swapped

    def _swap(self, options: IntArray, rng: np.random.Generator) -> IntArray:
        """One bit more at one operand and one less at another, where both have that choice."""
        swapped = options.copy()
        operands = rng.permutation(len(self.problem.operands))
        for change in (1, -1):
            for part in operands:
                if (moved := self._moved(swapped, int(part), change)) is not None:
                    swapped = moved
                    operands = operands[operands != part]
                    break
        return swapped

    def _moved(self, options: IntArray, part: int, change: int) -> IntArray | None:
        """One operand's bits changed, or those of its whole site where they are tied."""
        index, column = self._places[part]
        site = self.problem.sites[index]
        mine = [self._positions[site.site, operand] for operand in site.configs[0]]
        entries = site.operand_options[options[index]]
        changed = [self._changed(other, int(entry), change) for other, entry in zip(mine, entries, strict=True)]
        alone = [changed[c] if c == column else int(entry) for c, entry in enumerate(entries)]
        for wanted in (alone, changed):
            found = None if None in wanted else with_entries(self.problem, index, options, wanted)
            if found is not None:
                return found
        return None

    def _changed(self, part: int, entry: int, change: int) -> int | None:
        """The entry with the next width up or down, all else equal."""
        place = self._ladders[part].index(entry) + change
        ladder = self._ladders[part]
        configs = self.problem.operand_configs[part]
        same = 0 <= place < len(ladder) and _family(configs[ladder[place]]) == _family(configs[entry])
        return ladder[place] if same else None


def _family(config: OperandConfig) -> OperandConfig:
    """What a configuration has in common with those that differ in bits alone."""
    return config.model_copy(update={"bits": 1})
