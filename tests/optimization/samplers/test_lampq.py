"""The sampler that improves allocations by swaps."""

from __future__ import annotations

import numpy as np
import optuna
import pytest
from numpy.typing import NDArray
from optuna.trial import Trial

from autoq.optimization.samplers.lampq import LampQSampler
from autoq.recipe import SiteConfig

from .small_priors import prior_of, proposals

IntArray = NDArray[np.int64]


Recipe = dict[str, SiteConfig]


def steps_between(one: Recipe, other: Recipe, widths: tuple[int, ...], by_site: bool) -> list[int] | None:
    """By how many widths operands differ, or sites where those are tied; None if in anything else."""
    steps = []
    for site, operands in one.items():
        there = other[site]
        for name, config in operands.items():
            if config.model_copy(update={"bits": there[name].bits}) != there[name]:
                return None
        moved = [widths.index(there[name].bits) - widths.index(config.bits) for name, config in operands.items()]
        steps += list(set(moved)) if by_site else moved
    return sorted(step for step in steps if step)


@pytest.mark.parametrize(("space", "by_site"), [("plain", False), ("groups", False), ("tied by site", True)])
def test_lampq_swaps_one_step_up_for_one_down(space: str, by_site: bool) -> None:
    prior = prior_of(space)
    problem = prior.problem
    found = proposals(LampQSampler(0, prior), prior, 45)
    recipes = [problem.space.sites_for(problem.assignment(combinations)) for combinations in found]
    first: list[bytes] = []
    for position in range(12):
        allocation = prior.allocate(prior.budget(position)).combinations
        if allocation.tobytes() not in first:
            first.append(allocation.tobytes())
    assert [combinations.tobytes() for combinations in found[: len(first)]] == first
    for number in range(len(first), len(found)):
        assert problem.cost(found[number]) <= prior.limit
        steps = [steps_between(earlier, recipes[number], (2, 3, 4, 6, 8), by_site) for earlier in recipes[:number]]
        assert [-1, 1] in steps
    assert len({combinations.tobytes() for combinations in found}) > 40


def test_lampq_is_told_by_its_seed() -> None:
    prior = prior_of("groups")
    first, again, other = (
        [row.tolist() for row in proposals(LampQSampler(seed, prior), prior, 18)] for seed in (0, 0, 1)
    )
    assert first == again != other
    assert first[:12] == other[:12]


def test_lampq_improves_on_its_allocations() -> None:
    prior = prior_of("groups")
    problem, sampler = prior.problem, LampQSampler(0, prior)
    study = optuna.create_study(directions=["minimize"] * 2, sampler=sampler)
    sites = problem.site_losses(prior.table)
    factor = np.exp(np.random.default_rng(9).normal(size=len(sites)))

    def objective(trial: Trial) -> tuple[float, float]:
        params = {d.name: trial.suggest_categorical(d.name, d.choices) for d in problem.space.decisions}
        combinations = problem.combinations_of(params)
        return problem.cost(combinations), float(
            sum(f * x[o] for f, x, o in zip(factor, sites, combinations, strict=True))
        )

    study.optimize(objective, n_trials=150)
    losses = [trial.values[1] for trial in study.trials]
    assert min(losses[12:]) < min(losses[:12])
