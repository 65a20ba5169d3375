"""Small priors that the tests of samplers share."""

from __future__ import annotations

from functools import cache

import numpy as np
import optuna
from numpy.typing import NDArray
from optuna.samplers import BaseSampler
from optuna.trial import Trial

from autoq.cost import CostModel
from autoq.optimization.allocation.problem import AllocationProblem
from autoq.optimization.samplers import AllocationPrior
from autoq.optimization.space import parse_space, resolve_space
from tests.optimization.synthetic_sites import vit

PLAIN = """
schema_version = 1
[[rules]]
scheme = "uniform"
bits = [2, 3, 4, 6, 8]
"""
GROUPS = """
[[rules]]
op = "linear"
operand = "input"
scheme = "instance_groups"
groups = [1, 4]
"""
BY_SITE = """
[[ties]]
match = "*"
fields = ["bits"]
by = "site"
"""
ACROSS = """
[[ties]]
match = "*.attn.qk:*"
fields = ["bits"]
by = "operand"
"""
SPACES = {
    "plain": PLAIN,
    "groups": PLAIN + GROUPS,
    "tied by site": PLAIN + GROUPS + BY_SITE,
    "tied across sites": PLAIN + GROUPS + ACROSS,
}


@cache
def problem_of(space: str) -> AllocationProblem:
    """What can be allocated in one of ``SPACES``."""
    sites = vit()
    return AllocationProblem(CostModel(sites), resolve_space(parse_space(SPACES[space]), sites))


def prior_of(space: str = "groups", seed: int = 0, infinite: float = 0.0, share: float = 0.4) -> AllocationPrior:
    """Losses that fall fourfold with each bit, with random factors; the share ``infinite`` of all is infinite.

    The budget lies at ``share`` between the least and the greatest cost.
    """
    problem, rng = problem_of(space), np.random.default_rng(seed)
    table = []
    for configs in problem.options:
        scale = np.exp(rng.normal(0, 1.5))
        loss = scale * np.array([4.0**-c.bits * (0.7 if c.groups > 1 else 1) for c in configs])
        loss *= np.exp(rng.normal(0, 0.1, len(configs)))
        # The widest stay usable, so that every site has an combination left whatever its ties.
        widest = np.array([c.bits == 8 for c in configs])
        table.append(np.where((rng.random(len(configs)) < infinite) & ~widest, np.inf, loss))
    budget = round(problem.minimum_cost + share * (problem.maximum_cost - problem.minimum_cost))
    return AllocationPrior(problem, table, budget)


def random_combinations(problem: AllocationProblem, rng: np.random.Generator, count: int) -> NDArray[np.int64]:
    """(count, sites) Options of random assignments, which keep all ties."""
    decisions = problem.space.decisions
    drawn = [{d.name: d.choices[rng.integers(len(d.choices))] for d in decisions} for _ in range(count)]
    return np.array([problem.combinations_of(assignment) for assignment in drawn])


def proposals(sampler: BaseSampler, prior: AllocationPrior, trials: int) -> list[NDArray[np.int64]]:
    """What is proposed in a plain study."""
    study = optuna.create_study(directions=["minimize"] * 2, sampler=sampler)
    problem = prior.problem
    sites = problem.site_losses(prior.table)
    factor = np.exp(np.random.default_rng(9).normal(size=len(sites)))

    def objective(trial: Trial) -> tuple[float, float]:
        params = {d.name: trial.suggest_categorical(d.name, d.choices) for d in problem.space.decisions}
        combinations = problem.combinations_of(params)
        loss = sum(f * min(x[o], 9.0) for f, x, o in zip(factor, sites, combinations, strict=True))
        return problem.cost(combinations), float(loss)

    study.optimize(objective, n_trials=trials)
    return [problem.combinations_of(trial.params) for trial in study.trials]
