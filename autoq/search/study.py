"""The search itself: a driver that asks an Optuna sampler for recipes, evaluates them and stores each once."""

from __future__ import annotations

import logging
import math
import random
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

from autoq.cost import ModelCost, model_cost
from autoq.errors import NonFiniteError
from autoq.events import Progress, TrialFinished, ignore
from autoq.graph.sites import Site
from autoq.recipe import ScoreRecord, SiteConfig, hash_sites
from autoq.search.front import best_within, non_dominated
from autoq.search.objective import Evaluation, KeepGoing, Objective
from autoq.search.samplers import AllocationPrior, SamplerEntry
from autoq.search.space import BudgetRepair, ResolvedSpace
from autoq.search.storage import TrialStore
from autoq.search.trials import SAMPLER, UNIFORM

_logger = logging.getLogger(__name__)

_MOST_REPEATS = 200
"""Proposals in a row that were evaluated before, the second half random, after which a space counts as exhausted."""
_FINAL_REPEATS = 3
"""The same for samplers that run out of proposals."""
_HOPELESS = 2.0
"""Times the loss, over the same first images, of the best recipe that costs no more: a recipe that loses more is
stopped. Losses over a part of the images differ from those over all by much less."""


class StudyDriver:
    """Proposes in memory, evaluates, and appends each finished trial to the store with a single write.

    Uniform points come first, to compare with and to start from. A proposal over the budget is brought under it before
    it is evaluated, and recorded as evaluated.
    """

    def __init__(
        self,
        space: ResolvedSpace,
        sites: Sequence[Site],
        budget_bops: int,
        store: TrialStore,
        measure: Objective,
        kind: SamplerEntry,
        prior: AllocationPrior,
        seed: int = 0,
        proxy: str = "kl",
        stop_hopeless: bool = True,
    ) -> None:
        """Take up the study where the store has left it.

        Args:
            space: the decisions.
            sites: of the model.
            budget_bops: most BOPs of a recipe that counts.
            store: finished trials; read now and appended to.
            measure: gives the losses of recipes.
            kind: the sampler that proposes recipes.
            prior: what the sampler may know beforehand.
            seed: together with the number of stored trials, determines the proposals.
            proxy: name of the loss, for those who watch.
            stop_hopeless: give a recipe up that loses much more over the first images than one that costs no more.
        """
        self._space, self._sites, self._budget = space, sites, budget_bops
        self._store, self._measure, self._proxy = store, measure, proxy
        self._stop_hopeless, self._kind = stop_hopeless, kind
        self._repair = BudgetRepair(sites, space, budget_bops)
        past = store.load_trials()
        start = (seed * 1_000_003 + len(past)) % 2**32
        self._rng = random.Random(start)  # noqa: S311 - not for secrets
        verbosity = optuna.logging.get_verbosity()
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._study = optuna.create_study(directions=["minimize"] * 2, sampler=kind.make(start, prior))
        optuna.logging.set_verbosity(verbosity)
        self._distributions: dict[str, BaseDistribution] = {
            d.name: CategoricalDistribution(d.choices) for d in space.decisions
        }
        self._study.add_trials(past)
        self._seen = {trial.user_attrs["recipe_hash"] for trial in past}
        self._done = len(past)
        self._complete = [trial for trial in past if trial.state == TrialState.COMPLETE]

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
            affordable = [(t.values[0], t.values[1]) for t in self._complete if t.values[0] <= self._budget]
            best = best_within(affordable, self._budget)
            least = None if best is None else affordable[best][1]
            total = max(trials, self._done)
            progress(TrialFinished(self._done, total, least, len(non_dominated(affordable)), left, self._proxy))

        for label, assignment in self._space.uniform_points:
            # Plain uniform points are worth knowing at any cost; those with groups only as a place to start from.
            sites = self._space.sites_for(assignment)
            is_start = not self._kind.needs_sensitivities and model_cost(self._sites, sites).bops <= self._budget
            if " g" in label and not is_start:
                continue
            if hash_sites(sites) not in self._seen:
                finish(self._record(assignment, UNIFORM, label, {"NSGAIISampler:generation": 0}))
        repeats = 0
        while self._done < trials and self._space.decisions and (deadline is None or time.monotonic() < deadline):
            proposal = self._study.ask(self._distributions)
            drawn = proposal.params
            if (
                repeats >= _MOST_REPEATS // 2 and not self._kind.is_finite
            ):  # some samplers repeat themselves long before a space is exhausted
                drawn = {decision.name: self._rng.choice(decision.choices) for decision in self._space.decisions}
            assignment = self._repair(drawn, self._rng)
            attributes = self._study.get_trials(deepcopy=False)[proposal.number].system_attrs
            self._study.tell(proposal, state=TrialState.FAIL)  # what is evaluated is added as a trial of its own
            if hash_sites(self._space.sites_for(assignment)) in self._seen:
                repeats += 1
                if repeats >= (_FINAL_REPEATS if self._kind.is_finite else _MOST_REPEATS):
                    _logger.info("the last %d proposals were all evaluated before: stopping", repeats)
                    break
                continue
            repeats = 0
            finish(self._record(assignment, SAMPLER, "", attributes))

    def score_front(self, measure: Objective, on_trial: Callable[[FrozenTrial], None] | None = None) -> None:
        """Evaluate the front and the uniform points where that was not needed for their loss, and store them again.

        Args:
            measure: evaluates recipes.
            on_trial: called with every stored trial.
        """
        scored = {t.user_attrs["recipe_hash"] for t in self._complete if "score" in t.user_attrs}
        affordable = [t for t in self._complete if t.values[0] <= self._budget]
        front = [affordable[i] for i in non_dominated([(t.values[0], t.values[1]) for t in affordable])]
        uniform = [t for t in self._complete if t.user_attrs["origin"] == UNIFORM]
        for trial in {t.user_attrs["recipe_hash"]: t for t in (*uniform, *front)}.values():
            attributes = trial.user_attrs
            if attributes["recipe_hash"] not in scored:
                scoring = _Scoring(measure, trial.values[1])
                frozen = self._record(trial.params, attributes["origin"], attributes["label"], {}, scoring)
                if on_trial is not None:
                    on_trial(frozen)

    def _record(
        self,
        assignment: Mapping[str, Any],
        origin: str,
        label: str,
        system_attributes: Mapping[str, Any],
        measure: Objective | None = None,
    ) -> FrozenTrial:
        """Objective one recipe, store the outcome and tell the sampler."""
        sites = self._space.sites_for(assignment)
        cost = model_cost(self._sites, sites)
        attributes: dict[str, Any] = {
            "origin": origin,
            "label": label,
            "recipe_hash": hash_sites(sites),
            "cost": cost.record().model_dump(),
        }

        def go_on(first_loss: float) -> bool:
            attributes["first_loss"] = first_loss
            return origin == UNIFORM or not self._is_hopeless(cost.bops, first_loss)

        asked: KeepGoing | None = go_on if self._stop_hopeless else None
        started = time.monotonic()
        try:
            measured = (measure or self._measure)(sites, asked)
            if not math.isfinite(measured.loss):
                raise NonFiniteError(f"the discrepancy is {measured.loss}")
        except NonFiniteError as error:
            _logger.warning("a recipe failed: %s", error)
            frozen = self._frozen(assignment, cost, None, attributes | {"error": str(error)}, system_attributes)
        else:
            if measured.score is not None:
                name = "score" if measured.is_complete else "first_score"
                attributes[name] = ScoreRecord(**vars(measured.score)).model_dump(exclude_none=True)
            attributes["seconds"] = time.monotonic() - started
            frozen = self._frozen(assignment, cost, measured, attributes, system_attributes)
        frozen.number = self._store.append(frozen)
        self._study.add_trial(frozen)
        if frozen.state == TrialState.COMPLETE:
            self._complete.append(frozen)
        self._seen.add(attributes["recipe_hash"])
        self._done += 1
        return frozen

    def _is_hopeless(self, bops: int, first_loss: float) -> bool:
        """Whether a recipe loses far more, over the first images, than the best one that costs no more."""
        rivals = [t for t in self._complete if t.values[0] <= bops and "first_loss" in t.user_attrs]
        if not rivals:
            return False
        rival = min(rivals, key=lambda trial: float(trial.values[1])).user_attrs["first_loss"]
        return bool(rival > 0 and first_loss > _HOPELESS * rival)

    def _frozen(
        self,
        assignment: Mapping[str, Any],
        cost: ModelCost,
        measured: Evaluation | None,
        attributes: Mapping[str, Any],
        system_attributes: Mapping[str, Any],
    ) -> FrozenTrial:
        if measured is None:
            state = TrialState.FAIL
        else:
            state = TrialState.COMPLETE if measured.is_complete else TrialState.PRUNED
        is_complete = measured is not None and measured.is_complete
        return create_trial(
            state=state,
            values=[cost.bops, measured.loss] if measured is not None and is_complete else None,
            params=dict(assignment),
            distributions=self._distributions,
            constraints={"bops": cost.bops / self._budget - 1},
            user_attrs=dict(attributes),
            system_attrs={key: value for key, value in system_attributes.items() if key.startswith("NSGAII")},
        )


class _Scoring:
    """Evaluates recipes whose loss by another proxy is known."""

    def __init__(self, measure: Objective, loss: float) -> None:
        self._measure, self._loss = measure, loss

    def __call__(self, sites: Mapping[str, SiteConfig], go_on: KeepGoing | None = None) -> Evaluation:  # noqa: ARG002
        return Evaluation(self._loss, self._measure(sites).score)
