"""The sampler of uniform recipes: one width for all weights and one for all activations."""

from __future__ import annotations

from autoq.optimization.allocation.knapsack import IntArray
from autoq.optimization.samplers._base import BasePriorSampler


class UniformSampler(BasePriorSampler):
    """Every pair of a width for weights and one for activations, equal ones first, then with more groups."""

    def at(self, position: int) -> IntArray:
        """Return the recipe with this number, or the last one."""
        space = self.problem.space
        bits = sorted({c for d in space.decisions if d.field == "bits" for c in d.choices}) or [0]
        groups = sorted({c for d in space.decisions if d.field == "groups" for c in d.choices}) or [0]
        pairs = sorted(((w, a) for w in bits for a in bits), key=lambda pair: (abs(pair[0] - pair[1]), pair))
        ways = [(pair, count) for count in groups for pair in pairs]
        (weights, activations), count = ways[min(position, len(ways) - 1)]
        assignment = space.uniform_assignment(activations, count)
        of_weights = space.uniform_assignment(weights, count)
        for decision in space.decisions:
            if decision.field == "bits" and all(operand == "weight" for _, operand in decision.targets):
                assignment[decision.name] = of_weights[decision.name]
        return self.problem.combinations_of(assignment)
