"""The search itself: a driver that asks an Optuna sampler for recipes, evaluates them and stores each once."""

from __future__ import annotations

import logging
import math
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial, TrialState, create_trial

from autoq.cost import ModelCost, model_cost
from autoq.errors import NonFiniteError
from autoq.events import Progress, TrialFinished, ignore
from autoq.graph.sites import Site
from autoq.recipe import CostRecord, ScoreRecord, SiteConfig, hash_sites
from autoq.scoring import Score
from autoq.search.decisions import ResolvedSpace
from autoq.search.front import best_within, non_dominated
from autoq.search.repair import BudgetRepair
from autoq.search.rundir import STUDY_NAME, RunDirectory
from autoq.search.samplers import SAMPLERS
from autoq.search.storage import TrialStore, load_trials

_logger = logging.getLogger(__name__)

UNIFORM, SAMPLER = "uniform", "sampler"
"""Origins of a trial."""
_MOST_REPEATS = 200
"""Proposals in a row that were evaluated before, the second half random, after which a space counts as exhausted."""


@dataclass(frozen=True)
class EvaluatedTrial:
    """A completed trial as read back from the study.

    Attributes:
        id: ``w4a4`` for uniform points, ``trial-137`` for others.
        label: for people: ``w4a4``, ``trial 137``.
        origin: ``uniform`` or ``sampler``.
        assignment: the decisions.
        cost: of its recipe.
        score: of its recipe.
    """

    id: str
    label: str
    origin: str
    assignment: Mapping[str, Any]
    cost: CostRecord
    score: ScoreRecord

    @classmethod
    def of(cls, trial: FrozenTrial) -> EvaluatedTrial:
        """Read what ``StudyDriver`` wrote."""
        attributes = trial.user_attrs
        uniform = attributes["origin"] == UNIFORM
        return cls(
            id=attributes["label"].replace(" ", "-") if uniform else f"trial-{trial.number}",
            label=attributes["label"] if uniform else f"trial {trial.number}",
            origin=attributes["origin"],
            assignment=trial.params,
            cost=CostRecord(**attributes["cost"]),
            score=ScoreRecord(**attributes["score"]),
        )


def evaluated_trials(trials: Sequence[FrozenTrial]) -> list[EvaluatedTrial]:
    """The completed trials of a study, in order."""
    return [EvaluatedTrial.of(trial) for trial in trials if trial.state == TrialState.COMPLETE]


def stored_trials(run: RunDirectory) -> list[EvaluatedTrial]:
    """The completed trials of a run directory, which may be in use; none before its first."""
    return evaluated_trials(load_trials(run.study, STUDY_NAME)) if run.study.exists() else []


def shown_trials(trials: list[EvaluatedTrial], budget_bops: int) -> tuple[list[EvaluatedTrial], list[EvaluatedTrial]]:
    """The front within the budget, cheapest first, and the uniform points, which are shown beside it."""
    affordable = [trial for trial in trials if trial.cost.bops <= budget_bops]
    front = [affordable[i] for i in non_dominated([(t.cost.bops, t.score.kl_nats) for t in affordable])]
    return front, [trial for trial in trials if trial.origin == UNIFORM]


def best_trial(front: list[EvaluatedTrial], budget_bops: int) -> EvaluatedTrial | None:
    """The least discrepancy within the budget."""
    index = best_within([(trial.cost.bops, trial.score.kl_nats) for trial in front], budget_bops)
    return None if index is None else front[index]


class StudyDriver:
    """Proposes in memory, evaluates, and appends each finished trial to the store with a single write.

    Uniform points come first, as parents of the first generation. A proposal over the budget is brought under it before
    it is evaluated, and recorded as evaluated.
    """

    def __init__(
        self,
        space: ResolvedSpace,
        sites: Sequence[Site],
        budget_bops: int,
        store: TrialStore,
        evaluate: Callable[[Mapping[str, SiteConfig]], Score],
        make_sampler: Callable[[int], BaseSampler] = SAMPLERS["progressive"],
        seed: int = 0,
    ) -> None:
        """Take up the study where the store has left it.

        Args:
            space: the decisions.
            sites: of the model.
            budget_bops: most BOPs of a recipe that counts.
            store: finished trials; read now and appended to.
            evaluate: scores the operands of a recipe.
            make_sampler: gives the Optuna sampler that proposes recipes, from a seed.
            seed: together with the number of stored trials, determines the proposals.
        """
        self._space, self._sites, self._budget = space, sites, budget_bops
        self._store, self._evaluate = store, evaluate
        self._repair = BudgetRepair(sites, space, budget_bops)
        past = store.load_trials()
        start = (seed * 1_000_003 + len(past)) % 2**32
        self._rng = random.Random(start)  # noqa: S311 - not for secrets
        verbosity = optuna.logging.get_verbosity()
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._study = optuna.create_study(directions=["minimize"] * 2, sampler=make_sampler(start))
        optuna.logging.set_verbosity(verbosity)
        self._distributions: dict[str, BaseDistribution] = {
            d.name: CategoricalDistribution(d.choices) for d in space.decisions
        }
        self._study.add_trials(past)
        self._seen = {trial.user_attrs["recipe_hash"] for trial in past}
        self._done = len(past)
        self._points = [(trial.values[0], trial.values[1]) for trial in past if trial.state == TrialState.COMPLETE]

    def run(
        self,
        trials: int,
        deadline: float | None = None,
        progress: Progress = ignore,
        on_trial: Callable[[FrozenTrial], None] | None = None,
    ) -> None:
        """Evaluate until the study has ``trials`` trials, the space is exhausted, or the deadline passes.

        Args:
            trials: stored trials to reach, the uniform points included (which are always evaluated).
            deadline: ``time.monotonic()`` after which nothing new is proposed.
            progress: told of every finished trial.
            on_trial: called with every stored trial, or None.
        """

        def finish(frozen: FrozenTrial) -> None:
            if on_trial is not None:
                on_trial(frozen)
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            affordable = [point for point in self._points if point[0] <= self._budget]
            best = best_within(affordable, self._budget)
            least = None if best is None else affordable[best][1]
            total = max(trials, self._done)
            progress(TrialFinished(self._done, total, least, len(non_dominated(affordable)), left))

        for label, assignment in self._space.anchors:
            # Plain uniform points are worth knowing at any cost; those with groups only as a place to start from.
            sites = self._space.sites_for(assignment)
            if " " in label and model_cost(self._sites, sites).bops > self._budget:
                continue
            if hash_sites(sites) not in self._seen:
                finish(self._record(assignment, UNIFORM, label, {"NSGAIISampler:generation": 0}))
        repeats = 0
        while self._done < trials and self._space.decisions and (deadline is None or time.monotonic() < deadline):
            proposal = self._study.ask(self._distributions)
            drawn = proposal.params
            if repeats >= _MOST_REPEATS // 2:  # some samplers repeat themselves long before a space is exhausted
                drawn = {decision.name: self._rng.choice(decision.choices) for decision in self._space.decisions}
            assignment = self._repair(drawn, self._rng)
            attributes = self._study.get_trials(deepcopy=False)[proposal.number].system_attrs
            self._study.tell(proposal, state=TrialState.FAIL)  # what is evaluated is added as a trial of its own
            if hash_sites(self._space.sites_for(assignment)) in self._seen:
                repeats += 1
                if repeats >= _MOST_REPEATS:
                    _logger.info("the last %d proposals were all evaluated before: stopping", repeats)
                    break
                continue
            repeats = 0
            finish(self._record(assignment, SAMPLER, "", attributes))

    def _record(
        self, assignment: Mapping[str, Any], origin: str, label: str, system_attributes: Mapping[str, Any]
    ) -> FrozenTrial:
        """Evaluate one recipe, store the outcome and tell the sampler."""
        sites = self._space.sites_for(assignment)
        cost = model_cost(self._sites, sites)
        attributes: dict[str, Any] = {
            "origin": origin,
            "label": label,
            "recipe_hash": hash_sites(sites),
            "cost": cost.record().model_dump(),
        }
        started = time.monotonic()
        try:
            score = self._evaluate(sites)
            if not math.isfinite(score.kl_nats):
                raise NonFiniteError(f"the discrepancy is {score.kl_nats}")
        except NonFiniteError as error:
            _logger.warning("a recipe failed: %s", error)
            frozen = self._frozen(assignment, cost, None, attributes | {"error": str(error)}, system_attributes)
        else:
            attributes["score"] = ScoreRecord(**vars(score)).model_dump(exclude_none=True)
            attributes["seconds"] = time.monotonic() - started
            frozen = self._frozen(assignment, cost, score, attributes, system_attributes)
            self._points.append((cost.bops, score.kl_nats))
        frozen.number = self._store.append(frozen)
        self._study.add_trial(frozen)
        self._seen.add(attributes["recipe_hash"])
        self._done += 1
        return frozen

    def _frozen(
        self,
        assignment: Mapping[str, Any],
        cost: ModelCost,
        score: Score | None,
        attributes: Mapping[str, Any],
        system_attributes: Mapping[str, Any],
    ) -> FrozenTrial:
        return create_trial(
            state=TrialState.FAIL if score is None else TrialState.COMPLETE,
            values=None if score is None else [cost.bops, score.kl_nats],
            params=dict(assignment),
            distributions=self._distributions,
            constraints={"bops": cost.bops / self._budget - 1},
            user_attrs=dict(attributes),
            system_attrs={key: value for key, value in system_attributes.items() if key.startswith("NSGAII")},
        )
