"""Samplers that start from a prior: sequences, allocations, uniform points, greedy paths and swaps."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from itertools import product

import numpy as np
import optuna
import pytest
from numpy.typing import NDArray
from optuna.samplers import BaseSampler
from optuna.trial import Trial

from autoq.cost import model_cost
from autoq.recipe import SiteConfig
from autoq.search.samplers import AllocationPrior
from autoq.search.samplers._base import BasePriorSampler, operand_columns, with_options
from autoq.search.samplers.greedy import GreedySampler
from autoq.search.samplers.ilp import IlpSampler
from autoq.search.samplers.lampq import LampQSampler
from autoq.search.samplers.uniform import UniformSampler
from tests.search.synthetic_sites import vit

from .small_priors import SPACES, prior_of, problem_of, random_combinations

IntArray = NDArray[np.int64]


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    yield
    optuna.logging.set_verbosity(verbosity)


def proposals(sampler: BaseSampler, prior: AllocationPrior, trials: int) -> list[IntArray]:
    """What is proposed in a plain study."""
    study = optuna.create_study(directions=["minimize"] * 2, sampler=sampler)
    problem = prior.problem
    sites = problem.site_losses(prior.table)
    factor = np.exp(np.random.default_rng(9).normal(size=len(sites)))

    def objective(trial: Trial) -> tuple[float, float]:
        params = {d.name: trial.suggest_categorical(d.name, d.choices) for d in problem.space.decisions}
        combinations = problem.combinations_of(params)
        loss = sum(f * min(x[o], 9.0) for f, x, o in zip(factor, sites, combinations, strict=True))
        return problem.bops(combinations), float(loss)

    study.optimize(objective, n_trials=trials)
    return [problem.combinations_of(trial.params) for trial in study.trials]


class Listed(BasePriorSampler):
    """Proposes what it is given, then the last of it."""

    def __init__(self, prior: AllocationPrior, listed: list[IntArray]) -> None:
        super().__init__(0, prior)
        self.listed, self.asked = listed, 0

    def at(self, position: int) -> IntArray:
        self.asked += 1
        return self.listed[min(position, len(self.listed) - 1)]


def test_a_sequence_is_gone_through_without_repeats() -> None:
    prior = prior_of("groups")
    prior = replace(prior, budget_bops=prior.problem.maximum_bops)
    first, second, third = random_combinations(prior.problem, np.random.default_rng(0), 3)
    sampler = Listed(prior, [first, second, first, first, third])
    found = proposals(sampler, prior, 6)
    assert [row.tolist() for row in found] == [row.tolist() for row in (first, second, third, third, third, third)]
    assert sampler.asked < 6 + 5 + 65, "a position is worked out once, and an end is seen"


def test_other_trials_are_skipped() -> None:
    prior = prior_of("groups")
    listed = list(random_combinations(prior.problem, np.random.default_rng(0), 3))
    sampler = Listed(prior, listed)
    study = optuna.create_study(directions=["minimize"] * 2, sampler=sampler)
    kinds = sampler.infer_relative_search_space(study, study.ask())
    assert list(kinds) == [decision.name for decision in prior.problem.space.decisions]
    states = (optuna.trial.TrialState.PRUNED, optuna.trial.TrialState.COMPLETE)
    for combinations, state in zip(listed, states, strict=False):
        params = prior.problem.assignment(combinations)
        values = [1.0, 1.0] if state == optuna.trial.TrialState.COMPLETE else None
        study.add_trial(optuna.trial.create_trial(state=state, params=params, distributions=kinds, values=values))
    params = study.ask(kinds).params
    assert prior.problem.combinations_of(params).tolist() == listed[2].tolist()


@pytest.mark.parametrize("space", SPACES)
def test_operands_are_found_in_their_sites(space: str) -> None:
    problem = problem_of(space)
    for operand, (index, column) in zip(problem.operands, operand_columns(problem), strict=True):
        assert problem.sites[index].site == operand[0]
        assert list(problem.sites[index].configs[0])[column] == operand[1]


@pytest.mark.parametrize("space", SPACES)
def test_combinations_with_other_options(space: str) -> None:
    """Against a search of all combinations; what is tied to other sites stays."""
    problem, rng = problem_of(space), np.random.default_rng(0)
    missing = 0
    for combinations in random_combinations(problem, rng, 15):
        index = int(rng.integers(len(problem.sites)))
        site = problem.sites[index]
        wanted = [int(rng.integers(site.options[:, c].max() + 1)) for c in range(len(site.configs[0]))]
        expected = [
            combination
            for combination, (options, ties) in enumerate(zip(site.options, site.ties, strict=True))
            if list(options) == wanted and list(ties) == list(site.ties[combinations[index]])
        ]
        moved = with_options(problem, index, combinations, wanted)
        missing += moved is None
        assert (moved is None) == (not expected)
        if moved is not None:
            assert moved[index] == expected[0]
            assert np.delete(moved, index).tolist() == np.delete(combinations, index).tolist()
    assert (missing > 0) == space.startswith("tied")


@pytest.mark.parametrize("space", SPACES)
def test_ilp_allocates_for_one_budget_after_the_other(space: str) -> None:
    prior = prior_of(space, infinite=0.2)
    found = proposals(IlpSampler(0, prior), prior, 8)
    expected: list[list[int]] = []
    position = 0
    while len(expected) < 8:
        combinations = prior.problem.allocate(prior.table, prior.budget(position), gap=1e-3).combinations.tolist()
        if combinations not in expected:
            expected.append(combinations)
        position += 1
    assert [row.tolist() for row in found] == expected
    assert max(prior.problem.bops(row) for row in found) <= prior.budget_bops


@pytest.mark.parametrize("space", ["plain", "groups", "tied by site"])
def test_uniform_mixes_nothing(space: str) -> None:
    prior = prior_of(space)
    problem, sampler = prior.problem, UniformSampler(0, prior)
    widths, groups = (2, 3, 4, 6, 8), (1,) if space == "plain" else (1, 4)
    count = len(widths) ** 2 * len(groups)
    found = []
    for position in range(count):
        recipe = problem.space.sites_for(problem.assignment(sampler.at(position)))
        weights = {c.bits for operands in recipe.values() for name, c in operands.items() if name == "weight"}
        others = {c.bits for operands in recipe.values() for name, c in operands.items() if name != "weight"}
        grouped = {c.groups for operands in recipe.values() for c in operands.values() if c.scheme == "instance_groups"}
        assert len(weights) == len(others) == 1
        assert len(grouped) <= 1
        found.append((weights.pop(), others.pop(), grouped.pop() if grouped else 1))
    if space == "tied by site":
        assert all(w == a for w, a, _ in found), "there is nothing in between"
    else:
        assert sorted(found) == sorted(product(widths, widths, groups))
    assert found[: len(widths)] == [(bits, bits, 1) for bits in widths], "equal ones first"
    assert (sampler.at(count + 5) == sampler.at(count - 1)).all()


Recipe = dict[str, SiteConfig]


def greedy_way(prior: AllocationPrior) -> list[tuple[int, Recipe]]:
    """What AIMET does, on recipes: least lossy first; taken where the model gets cheaper."""
    problem, sites = prior.problem, vit()
    loss = {
        (*operand, config): value
        for operand, configs, values in zip(problem.operands, problem.options, prior.table, strict=True)
        for config, value in zip(configs, values, strict=True)
    }
    offered = {site.site: site.configs for site in problem.sites}
    bops = {site.site: site.bops for site in problem.sites}

    def worst_first(name: str) -> SiteConfig:
        combinations = range(len(offered[name]))
        lost = [sum(loss[name, operand, c] for operand, c in offered[name][o].items()) for o in combinations]
        return offered[name][min(combinations, key=lambda o: (lost[o], bops[name][o]))]

    recipe = {name: dict(worst_first(name)) for name in offered}
    way = [(model_cost(sites, recipe).bops, recipe)]
    for (name, operand, config), value in sorted(loss.items(), key=lambda site: site[1]):
        changed = {**recipe, name: {**recipe[name], operand: config}}
        cheaper = model_cost(sites, changed).bops < way[-1][0]
        if math.isfinite(value) and changed[name] in offered[name] and cheaper:
            recipe = changed
            way.append((model_cost(sites, recipe).bops, recipe))
    return way


@pytest.mark.parametrize("space", ["plain", "groups"])
@pytest.mark.parametrize("infinite", [0.0, 0.3])
def test_greedy_takes_the_least_sensitive_first(space: str, infinite: float) -> None:
    prior = prior_of(space, infinite=infinite)
    sampler, way = GreedySampler(0, prior), greedy_way(prior)
    assert len(way) > 10
    for position in range(12):
        kept = [recipe for cost, recipe in way if cost <= prior.budget(position)]
        expected = kept[0] if kept else way[-1][1]
        assert prior.problem.space.sites_for(prior.problem.assignment(sampler.at(position))) == expected


def test_greedy_changes_tied_bits_together() -> None:
    prior = prior_of("tied by site")
    found = proposals(GreedySampler(0, prior), prior, 6)
    assert len({row.tobytes() for row in found}) == 6
    assert all(prior.problem.bops(row) <= prior.budget_bops for row in found)


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
        assert problem.bops(found[number]) <= prior.budget_bops
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
        return problem.bops(combinations), float(
            sum(f * x[o] for f, x, o in zip(factor, sites, combinations, strict=True))
        )

    study.optimize(objective, n_trials=150)
    losses = [trial.values[1] for trial in study.trials]
    assert min(losses[12:]) < min(losses[:12])
