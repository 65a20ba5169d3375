"""The driver on made-up discrepancies, without a model: what is proposed, stored, taken up again and given up."""

from __future__ import annotations

import dataclasses
import json
import math
import time
from collections.abc import Mapping
from pathlib import Path

import pytest
from optuna.samplers import NSGAIISampler
from optuna.trial import FrozenTrial, TrialState

import autoq.optimization.study as study_module
from autoq.cost import CostModel, Limits, model_cost
from autoq.errors import NonFiniteError, RunError
from autoq.events import Event, TrialFinished
from autoq.graph.sites import Site
from autoq.optimization.allocation.problem import AllocationProblem
from autoq.optimization.executors._base import Job, Lost, Result
from autoq.optimization.executors.local import LocalExecutor
from autoq.optimization.objective import Evaluation, KeepGoing
from autoq.optimization.samplers import SAMPLERS, AllocationPrior, SamplerEntry
from autoq.optimization.space import ResolvedSpace, parse_space, resolve_space
from autoq.optimization.storage import TrialStore
from autoq.optimization.study import StudyDriver, StudySettings
from autoq.optimization.trials import SAMPLER, UNIFORM, evaluated_trials
from autoq.recipe import SiteConfig, hash_sites
from autoq.scoring import Score
from tests.optimization.synthetic_sites import vit

SPACE = """
schema_version = 1
[[rules]]
scheme = "uniform"
bits = [2, 4, 6, 8]
[[rules]]
op = "linear"
operand = "input"
scheme = "instance_groups"
groups = [1, 4]
[[ties]]
match = "*"
fields = ["bits"]
by = "site"
"""
PLAIN = ["w2a2", "w4a4", "w6a6", "w8a8"]
UNIFORM_POINTS = [*PLAIN, "w2a2 g4", "w4a4 g4"]
"""Uniform points without groups at any cost, those with groups within the budget: that of the last one."""
ENDLESS = [name for name, kind in SAMPLERS.items() if not kind.is_finite]


def uniform_points(sampler: str) -> list[str]:
    """Those that start from sensitivities need none with groups."""
    return PLAIN if SAMPLERS[sampler].needs_sensitivities else UNIFORM_POINTS


def fake_kl(sites: Mapping[str, SiteConfig]) -> float:
    """Later sites matter less, and groups are worth a bit."""
    return sum(
        4.0 ** -(config.bits + (config.groups > 1)) / (1 + index)
        for index, operands in enumerate(sites.values())
        for config in operands.values()
    )


class Problem:
    """A study of made-up discrepancies, and what was evaluated in it."""

    def __init__(self, path: Path, space: str = SPACE) -> None:
        self.path = path / "study.log"
        self.sites: list[Site] = vit()
        self.space: ResolvedSpace = resolve_space(parse_space(space), self.sites)
        self.budget = model_cost(self.sites, self.space.sites_for(self.space.uniform_assignment(bits=4, groups=4))).bops
        self.evaluated: list[str] = []
        self.events: list[Event] = []

    def evaluate(self, sites: Mapping[str, SiteConfig]) -> Score:
        self.evaluated.append(hash_sites(sites))
        return Score(fake_kl(sites), 90.0, 20.0, 0.1, 4)

    def measure(self, sites: Mapping[str, SiteConfig], keep_going: KeepGoing | None = None) -> Evaluation:
        del keep_going
        score = self.evaluate(sites)
        return Evaluation(score.kl_nats, score)

    @property
    def prior(self) -> AllocationPrior:
        """Sensitivities that know nothing of groups."""
        problem = AllocationProblem(CostModel(self.sites), self.space)
        order = list(dict.fromkeys(site for site, _ in problem.operands))
        table = problem.table(lambda site, _, config: 4.0**-config.bits / (1 + order.index(site)))
        return AllocationPrior(problem, table, self.budget)

    def driver(self, sampler: str | SamplerEntry = "random", seed: int = 0) -> StudyDriver:
        store = TrialStore.open(self.path, "autoq")
        kind = SAMPLERS[sampler] if isinstance(sampler, str) else sampler
        return StudyDriver(
            self.prior,
            CostModel(self.sites),
            Limits({"bops": self.budget}),
            store,
            StudySettings(kind, seed),
        )

    @property
    def executor(self) -> LocalExecutor:
        return LocalExecutor(self.measure)

    def run(self, trials: int, sampler: str | SamplerEntry = "random", seed: int = 0) -> list[FrozenTrial]:
        self.driver(sampler, seed).run(self.executor, trials, progress=self.events.append)
        return self.stored()

    def stored(self) -> list[FrozenTrial]:
        return TrialStore.open(self.path, "autoq").load_trials()


@pytest.fixture
def problem(tmp_path: Path) -> Problem:
    return Problem(tmp_path)


def params(trials: list[FrozenTrial]) -> list[str]:
    return [json.dumps(trial.params, sort_keys=True) for trial in trials]


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_sampler(problem: Problem, sampler: str) -> None:
    trials = problem.run(40, sampler)
    first = uniform_points(sampler)
    assert len(trials) == 40 or (SAMPLERS[sampler].is_finite and len(first) <= len(trials) < 40)
    origins = [trial.user_attrs["origin"] for trial in trials]
    assert origins == [UNIFORM] * len(first) + [SAMPLER] * (len(trials) - len(first))
    assert [trial.user_attrs["label"] for trial in trials[: len(first)]] == first
    assert len(set(problem.evaluated)) == len(problem.evaluated), "nothing is evaluated twice"
    for trial, evaluated in zip(trials, problem.evaluated, strict=True):
        sites = problem.space.sites_for(trial.params)
        assert hash_sites(sites) == trial.user_attrs["recipe_hash"] == evaluated, "the one stored is the one evaluated"
        assert trial.values == [model_cost(problem.sites, sites).bops, fake_kl(sites)]
        assert trial.user_attrs["cost"] == model_cost(problem.sites, sites).record().model_dump(exclude_none=True)
        assert trial.constraints == {"bops": pytest.approx(trial.values[0] / problem.budget - 1)}
        assert trial.user_attrs["within_budgets"] == (trial.values[0] <= problem.budget)
        if trial.user_attrs["origin"] == SAMPLER:
            assert trial.values[0] <= problem.budget


@pytest.mark.parametrize("sampler", ENDLESS)
def test_the_seed_decides(tmp_path: Path, sampler: str) -> None:
    runs = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        (tmp_path / name).mkdir()
        runs.append(params(Problem(tmp_path / name).run(25, sampler, seed)))
    assert runs[0] == runs[1] != runs[2]


@pytest.mark.parametrize("sampler", ENDLESS)
def test_taken_up_again(problem: Problem, sampler: str) -> None:
    first = problem.run(20, sampler)
    assert params(problem.run(20, sampler)) == params(first)
    assert len(problem.evaluated) == 20
    trials = problem.run(35, sampler)
    assert params(trials[:20]) == params(first)
    assert len(problem.evaluated) == len(set(problem.evaluated)) == len(trials) == 35


def test_taken_up_with_other_proposals(problem: Problem, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the seed alone, a sampler would propose all over again what it has proposed before."""
    problem.run(20)
    driver, asked = problem.driver(), []
    ask = driver._proposer._study.ask
    monkeypatch.setattr(driver._proposer._study, "ask", lambda *arguments: asked.append(1) or ask(*arguments))  # type: ignore[func-returns-value]
    driver.run(problem.executor, 30)
    assert len(asked) == 10


def test_taken_up_in_the_middle_of_the_uniform_points(problem: Problem) -> None:
    def stop_after_three(frozen: FrozenTrial) -> None:
        if frozen.number == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        problem.driver().run(problem.executor, 12, on_trial=stop_after_three)
    assert [trial.user_attrs["label"] for trial in problem.stored()] == UNIFORM_POINTS[:3]
    trials = problem.run(12)
    assert [trial.user_attrs["label"] for trial in trials[: len(UNIFORM_POINTS)]] == UNIFORM_POINTS
    assert len(problem.evaluated) == 12


@pytest.mark.parametrize("sampler", ENDLESS)
def test_recipes_that_fail_are_recorded_and_the_search_goes_on(
    problem: Problem, sampler: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def sometimes(sites: Mapping[str, SiteConfig]) -> Score:
        score = Problem.evaluate(problem, sites)
        match len(problem.evaluated) % 5:
            case 1:  # the first uniform point among them
                raise NonFiniteError("NaN arises first at site 'head'", "head")
            case 3:
                return Score(math.nan, 0.0, math.nan, math.nan, 4)
        return score

    monkeypatch.setattr(problem, "evaluate", sometimes)
    problem.run(20, sampler)
    trials = problem.run(30, sampler)
    failed = [trial for trial in trials if trial.state == TrialState.FAIL]
    assert len(trials) == len(problem.evaluated) == 30
    assert [trial.number for trial in failed] == [n for n in range(30) if n % 5 in (0, 2)]
    assert failed[0].user_attrs["error"] == "NaN arises first at site 'head'"
    assert failed[1].user_attrs["error"] == "the discrepancy is nan"
    assert [trial.label for trial in evaluated_trials(trials)][:2] == ["w4a4", "w8a8"]


def test_an_interrupt_is_no_failed_recipe(problem: Problem, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(_: Mapping[str, SiteConfig]) -> Score:
        raise KeyboardInterrupt

    monkeypatch.setattr(problem, "evaluate", interrupt)
    with pytest.raises(KeyboardInterrupt):
        problem.run(5)
    assert problem.stored() == []


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_an_exhausted_space_stops(tmp_path: Path, sampler: str) -> None:
    text = 'schema_version = 1\n[[rules]]\nscheme = "uniform"\nbits = 4\n' + "".join(
        f'[[rules]]\nsite = "head"\noperand = "{operand}"\nbits = [3, 4]\n' for operand in ("weight", "input")
    )
    problem = Problem(tmp_path, text)
    trials = problem.run(50, sampler)
    assert sorted(trial.user_attrs["label"] for trial in trials if trial.user_attrs["label"]) == ["w4a4", "w4a4 #2"]
    assert len(trials) == 4 or (SAMPLERS[sampler].is_finite and len(trials) < 4)


def test_a_space_without_choices_is_one_recipe(tmp_path: Path) -> None:
    problem = Problem(tmp_path, 'schema_version = 1\n[[rules]]\nscheme = "uniform"\nbits = 4\n')
    assert [trial.user_attrs["label"] for trial in problem.run(50)] == ["w4a4"]


def test_uniform_points_and_one_proposal_are_evaluated_after_the_deadline_and_nothing_else(problem: Problem) -> None:
    """The first proposal is the allocated recipe of the budget; the same search started again proposes no more."""
    for _ in range(2):
        problem.driver().run(problem.executor, 100, deadline=time.monotonic() - 1, progress=problem.events.append)
        assert [trial.user_attrs["label"] for trial in problem.stored()] == [*UNIFORM_POINTS, ""]
    last = problem.events[-1]
    assert isinstance(last, TrialFinished)
    assert last.seconds_left == 0


def test_a_deadline_ends_the_search(problem: Problem, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(10_000))
    monkeypatch.setattr(study_module.time, "monotonic", lambda: float(next(clock)))
    problem.driver().run(problem.executor, 1000, deadline=100.0)
    assert len(UNIFORM_POINTS) < len(problem.stored()) < 100


def test_progress_tells_the_best_within_the_budget(problem: Problem) -> None:
    problem.run(30)
    events = [event for event in problem.events if isinstance(event, TrialFinished)]
    assert [event.done for event in events] == list(range(1, 31))
    assert {event.total for event in events} == {30}
    bests = [event.best_loss for event in events]
    affordable = [t.values[1] for t in problem.stored() if t.values[0] <= problem.budget]
    assert bests[-1] == min(affordable)
    seen = [best for best in bests if best is not None]
    assert seen == sorted(seen, reverse=True)


def test_more_uniform_points_than_trials(problem: Problem) -> None:
    assert len(problem.run(3)) == len(UNIFORM_POINTS)
    assert {event.total for event in problem.events if isinstance(event, TrialFinished)} == set(
        range(3, len(UNIFORM_POINTS) + 1)
    )


def small_nsga2(seed: int, _: AllocationPrior) -> NSGAIISampler:
    return NSGAIISampler(population_size=len(UNIFORM_POINTS), seed=seed)


def test_nsga2_starts_from_the_uniform_points(problem: Problem) -> None:
    """Without their generation, Optuna would start from a random population and never look at them."""
    driver = problem.driver(SamplerEntry("", small_nsga2))
    driver.run(problem.executor, len(UNIFORM_POINTS) + 1)
    child = problem.stored()[-1]
    assert child.system_attrs["NSGAIISampler:generation"] == 1
    sampler = driver._proposer._study.sampler
    assert isinstance(sampler, NSGAIISampler)
    parents = sampler.get_parent_population(driver._proposer._study, 1)
    assert sorted(params(parents)) == sorted(params(problem.stored()[: len(UNIFORM_POINTS)]))


def test_nsga2_goes_on_with_its_generations(problem: Problem) -> None:
    problem.run(20, SamplerEntry("", small_nsga2))
    trials = problem.run(40, SamplerEntry("", small_nsga2))
    generations = [trial.system_attrs["NSGAIISampler:generation"] for trial in trials]
    assert generations == sorted(generations)
    assert generations[-1] >= 3


def test_points_are_called_as_people_call_them(problem: Problem) -> None:
    found = evaluated_trials(problem.run(8))
    assert [trial.id for trial in found] == [label.replace(" ", "-") for label in UNIFORM_POINTS] + [
        "trial-6",
        "trial-7",
    ]
    assert [trial.label for trial in found][-2:] == ["trial 6", "trial 7"]
    assert found[0].score.kl_nats == fake_kl(problem.space.sites_for(problem.space.uniform_assignment(2)))


@pytest.mark.parametrize("sampler", [name for name in SAMPLERS if name not in ("random", "tpe", "uniform")])
def test_searching_beats_guessing(tmp_path: Path, sampler: str) -> None:
    best = {}
    for name in ("random", sampler):
        (tmp_path / name).mkdir()
        problem = Problem(tmp_path / name)
        trials = problem.run(150, name)
        best[name] = min(trial.values[1] for trial in trials if trial.values[0] <= problem.budget)
    assert best[sampler] < best["random"]


SLICE = 2.0


class Sliced(Problem):
    """A problem whose first images lose twice as much as all of them."""

    def measure(self, sites: Mapping[str, SiteConfig], keep_going: KeepGoing | None = None) -> Evaluation:
        score = self.evaluate(sites)
        first = SLICE * score.kl_nats
        if keep_going is not None and not keep_going(first):
            return Evaluation(first, dataclasses.replace(score, kl_nats=first, images=1), is_complete=False)
        return Evaluation(score.kl_nats, score)


def test_recipes_that_lose_too_much_are_pruned_and_never_compared(tmp_path: Path) -> None:
    problem = Sliced(tmp_path)
    trials = problem.run(80, "random")
    stopped = [trial for trial in trials if trial.state == TrialState.PRUNED]
    assert 5 < len(stopped) < 75
    assert {trial.user_attrs["origin"] for trial in stopped} == {SAMPLER}, "uniform points are worth knowing"
    for trial in stopped:
        assert trial.values is None
        assert "score" not in trial.user_attrs
        assert trial.user_attrs["first_score"]["images"] == 1
        cost, loss = trial.user_attrs["cost"]["bops"], trial.user_attrs["first_loss"]
        rivals = [
            t for t in trials[: trial.number] if t.state == TrialState.COMPLETE and t.user_attrs["cost"]["bops"] <= cost
        ]
        assert loss > 2 * min(t.user_attrs["first_loss"] for t in rivals)
    assert not {trial.number for trial in stopped} & {int(t.id[6:]) for t in evaluated_trials(trials) if t.id[0] == "t"}
    assert len(set(problem.evaluated)) == len(problem.evaluated), "stopped recipes are not tried again"


def test_nothing_is_pruned_where_that_is_not_wanted(tmp_path: Path) -> None:
    problem = Sliced(tmp_path)
    store = TrialStore.open(problem.path, "autoq")
    settings = StudySettings(SAMPLERS["random"], prunes=False)
    driver = StudyDriver(problem.prior, CostModel(problem.sites), Limits({"bops": problem.budget}), store, settings)
    driver.run(problem.executor, 40)
    assert {trial.state for trial in problem.stored()} == {TrialState.COMPLETE}


def test_the_allocation_for_the_budget_is_evaluated_first_and_once(problem: Problem) -> None:
    driver = problem.driver("progressive")
    first = driver.evaluate_allocation(problem.measure)
    assert first is not None
    prior = problem.prior
    assert first.params == prior.allocate(prior.limit).assignment
    assert driver.evaluate_allocation(problem.measure) is None
    driver.run(problem.executor, 12)
    assert len(set(problem.evaluated)) == len(problem.evaluated) == 12
    assert problem.stored()[0].params == first.params


def test_what_was_not_evaluated_is_evaluated_at_the_end(problem: Problem) -> None:
    """A proxy that adds up sensitivities ranks recipes; those that come first are evaluated, once."""
    store = TrialStore.open(problem.path, "autoq")

    def added(sites: Mapping[str, SiteConfig], keep_going: KeepGoing | None = None) -> Evaluation:
        del keep_going
        return Evaluation(2 * fake_kl(sites), None)

    settings = StudySettings(SAMPLERS["progressive"], proxy="aph")
    driver = StudyDriver(problem.prior, CostModel(problem.sites), Limits({"bops": problem.budget}), store, settings)
    driver.run(LocalExecutor(added), 40)
    assert problem.evaluated == []
    assert evaluated_trials(problem.stored()) == []
    for _ in range(2):
        driver.score_front(problem.measure)
        found = evaluated_trials(problem.stored())
        assert len(found) == len(problem.evaluated) == len(set(problem.evaluated)) < 40
    assert {trial.label for trial in found} >= set(PLAIN)
    by_hash = {t.user_attrs["recipe_hash"]: t for t in problem.stored()[:40]}
    for trial in problem.stored()[40:]:
        assert trial.values == by_hash[trial.user_attrs["recipe_hash"]].values, "by the proxy, as before"
        assert trial.user_attrs["score"]["kl_nats"] == pytest.approx(trial.values[1] / 2)


class Losing(LocalExecutor):
    """Loses evaluations: all, or the first ones of each recipe."""

    def __init__(self, problem: Problem, times: float) -> None:
        super().__init__(problem.measure)
        self._times = times
        self.submitted: list[int] = []

    def submit(self, job: Job) -> None:
        self.submitted.append(job.number)
        super().submit(job)

    def next_result(self, timeout: float | None = None) -> Result | Lost | None:
        if self.submitted.count(self.submitted[-1]) <= self._times:
            self._jobs.clear()
            return Lost(self.submitted[-1], "the machine is gone")
        return super().next_result(timeout)


def test_lost_evaluations_are_done_again(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    usual, problem = Problem(tmp_path / "a"), Problem(tmp_path / "b")
    trials = usual.run(20, "progressive")
    executor = Losing(problem, 3)
    problem.driver("progressive").run(executor, 20)
    assert len(executor.submitted) == 80
    assert params(problem.stored()) == params(trials)
    assert [trial.values for trial in problem.stored()] == [trial.values for trial in trials]


def test_a_study_whose_evaluations_are_all_lost_ends_with_the_reason(problem: Problem) -> None:
    with pytest.raises(RunError, match="the last 8 recipes could not be evaluated: the machine is gone"):
        problem.driver("progressive").run(Losing(problem, math.inf), 20)
    failed = problem.stored()
    assert [trial.state for trial in failed] == [TrialState.FAIL] * 7
    assert failed[0].user_attrs["error"] == "lost 4 times, at last: the machine is gone"
    trials = problem.run(20, "progressive")
    assert len(trials) == 20, "it goes on when the machine is back"
    assert len({trial.user_attrs["recipe_hash"] for trial in trials}) == 20
