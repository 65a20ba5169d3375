"""The study: a driver that asks an Optuna sampler for recipes, evaluates them and stores each once."""

from __future__ import annotations

import logging
import math
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

from autoq.cost import CostModel, Limits
from autoq.errors import NonFiniteError
from autoq.events import Progress, TrialFinished, ignore
from autoq.optimization.front import non_dominated
from autoq.optimization.objective import Evaluation, KeepGoing, KnownLoss, Objective
from autoq.optimization.samplers import AllocationPrior, SamplerEntry
from autoq.optimization.space import BudgetRepair
from autoq.optimization.space.uniform_points import UniformPoint, uniform_points
from autoq.optimization.storage import TrialStore, quiet_optuna
from autoq.optimization.trials import SAMPLER, UNIFORM, is_feasible
from autoq.recipe import CostRecord, ScoreRecord, SiteConfig, hash_sites

_logger = logging.getLogger(__name__)

_MOST_REPEATS = 200
"""Proposals in a row that were evaluated before, the second half random, after which a space counts as exhausted."""
_FINAL_REPEATS = 3
"""The same for samplers that run out of proposals."""
_PRUNED_ABOVE = 2.0
"""Times the loss, over the same first images, of the best recipe that costs no more: a recipe that loses more is
pruned. Losses over a part of the images differ from those over all by much less."""


@dataclass(frozen=True)
class StudySettings:
    """How a study proposes and prunes recipes.

    Attributes:
        sampler: proposes recipes.
        seed: together with the number of stored trials, determines the proposals.
        proxy: name of the loss, for progress.
        prunes: whether a recipe is given up that loses much more over the first images than one that costs no more.
    """

    sampler: SamplerEntry
    seed: int = 0
    proxy: str = "kl"
    prunes: bool = True


@dataclass(frozen=True)
class _Proposal:
    """A recipe to evaluate.

    Attributes:
        assignment: of every decision.
        origin: ``uniform`` or ``sampler``.
        label: of uniform points, such as ``w4a4``.
        system_attributes: what Optuna's sampler has written to its own trial.
    """

    assignment: Mapping[str, Any]
    origin: str
    label: str = ""
    system_attributes: Mapping[str, Any] = field(default_factory=dict)


class StudyDriver:
    """Proposes in memory, evaluates, and appends each finished trial to the store with a single write.

    Uniform points come first, to compare with and to start from. A proposal over the budget is brought under it before
    it is evaluated, and recorded as evaluated.
    """

    def __init__(
        self,
        prior: AllocationPrior,
        costs: CostModel,
        limits: Limits,
        store: TrialStore,
        objective: Objective,
        settings: StudySettings,
        points: Sequence[UniformPoint] | None = None,
    ) -> None:
        """Take up the study where the store has left it.

        Args:
            prior: the decisions, and the knowledge that the sampler starts from.
            costs: of recipes of the model.
            limits: the budgets.
            store: finished trials; read now and appended to.
            objective: gives the losses of recipes.
            settings: how recipes are proposed and pruned.
            points: the uniform points; None: those with the first schemes of the space.
        """
        self._points = uniform_points(prior.problem.space) if points is None else points
        self._prior, self._space, self._costs, self._limits = prior, prior.problem.space, costs, limits
        self._store, self._objective, self._settings = store, objective, settings
        self._repair = BudgetRepair(costs, self._space, limits)
        past = store.load_trials()
        start = (settings.seed * 1_000_003 + len(past)) % 2**32
        self._rng = random.Random(start)  # noqa: S311 - not for secrets
        with quiet_optuna():
            sampler = settings.sampler.make(start, prior)
            self._study = optuna.create_study(directions=["minimize"] * 2, sampler=sampler)
        self._distributions: dict[str, BaseDistribution] = {
            d.name: CategoricalDistribution(d.choices) for d in self._space.decisions
        }
        self._study.add_trials(past)
        self._seen = {trial.user_attrs["recipe_hash"] for trial in past}
        self._labels = {trial.user_attrs["label"] for trial in past}
        self._done = len(past)
        self._complete = [trial for trial in past if trial.state == TrialState.COMPLETE]

    def run(
        self,
        trials: int,
        deadline: float | None = None,
        progress: Progress = ignore,
        on_trial: Callable[[FrozenTrial], None] | None = None,
        seconds_after: float | None = None,
    ) -> None:
        """Evaluate until the study has ``trials`` trials, the space is exhausted, or the deadline passes.

        Args:
            trials: stored trials to reach, the uniform points included (which are always evaluated).
            deadline: ``time.monotonic()`` after which nothing new is proposed.
            progress: told of every finished trial.
            on_trial: called with every stored trial, or None.
            seconds_after: how long the caller will take after that, for progress, or None.
        """
        proposals = chain(self._uniform_points(), self._proposals(trials, deadline))
        for proposal in proposals:
            frozen = self._record(proposal, self._objective)
            if on_trial is not None:
                on_trial(frozen)
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            affordable = [(t.values[0], t.values[1]) for t in self._complete if is_feasible(t)]
            front = non_dominated(affordable)
            least = affordable[front[-1]][1] if front else None
            total, size = max(trials, self._done), len(front)
            progress(TrialFinished(self._done, total, least, size, left, self._settings.proxy, seconds_after))

    def evaluate_allocation(self, objective: Objective) -> FrozenTrial | None:
        """Evaluate the exact allocation for the budgets, unless the study has gone beyond it.

        Args:
            objective: evaluates it; its first evaluation need not share anything with later ones.

        Returns:
            The stored trial, or None.
        """
        if self._complete or not self._space.decisions:
            return None
        assignment = self._prior.allocate(self._prior.limit).assignment
        recipe = hash_sites(self._space.sites_for(assignment))
        proposal = _Proposal(assignment, SAMPLER)
        for label, point in self._points:
            if hash_sites(self._space.sites_for(point)) == recipe:
                proposal = _Proposal(point, UNIFORM, label)
                self._labels.add(label)
        return self._record(proposal, objective)

    def score_front(self, objective: Objective, on_trial: Callable[[FrozenTrial], None] | None = None) -> None:
        """Evaluate the front and the uniform points where that was not needed for their loss, and store them again.

        Args:
            objective: evaluates recipes.
            on_trial: called with every stored trial.
        """
        scored = {t.user_attrs["recipe_hash"] for t in self._complete if "score" in t.user_attrs}
        affordable = [t for t in self._complete if is_feasible(t)]
        front = [affordable[i] for i in non_dominated([(t.values[0], t.values[1]) for t in affordable])]
        uniform = [t for t in self._complete if t.user_attrs["origin"] == UNIFORM]
        for trial in {t.user_attrs["recipe_hash"]: t for t in (*uniform, *front)}.values():
            attributes = trial.user_attrs
            if attributes["recipe_hash"] not in scored:
                proposal = _Proposal(trial.params, attributes["origin"], attributes["label"])
                frozen = self._record(proposal, KnownLoss(objective, trial.values[1]))
                if on_trial is not None:
                    on_trial(frozen)

    def _uniform_points(self) -> Iterator[_Proposal]:
        """List the uniform points that are to be evaluated: without groups all, to compare with, at any cost.

        Those with groups are only a place to start from, for samplers that know no sensitivities.
        """
        for label, assignment in self._points:
            sites = self._space.sites_for(assignment)
            starts = not self._settings.sampler.needs_sensitivities
            if " g" in label and not (starts and self._limits.admit(self._costs.cost(sites).record())):
                continue
            if label not in self._labels:
                yield _Proposal(assignment, UNIFORM, label, {"NSGAIISampler:generation": 0})

    def _proposals(self, trials: int, deadline: float | None) -> Iterator[_Proposal]:
        """Ask for new recipes until there are enough trials, the deadline passes, or the sampler repeats itself."""
        is_finite = self._settings.sampler.is_finite
        most, repeats = _FINAL_REPEATS if is_finite else _MOST_REPEATS, 0
        # The first proposal, which is the allocated recipe of the budget, is evaluated whatever the time.
        is_first = all(trial.user_attrs["origin"] == UNIFORM for trial in self._complete)
        while (
            self._done < trials
            and self._space.decisions
            and (is_first or deadline is None or time.monotonic() < deadline)
        ):
            # Some samplers repeat themselves long before a space is exhausted.
            proposal = self._ask(at_random=not is_finite and repeats >= _MOST_REPEATS // 2)
            if hash_sites(self._space.sites_for(proposal.assignment)) not in self._seen:
                repeats, is_first = 0, False
                yield proposal
                continue
            repeats += 1
            if repeats >= most:
                _logger.info("the last %d proposals were all evaluated before: stopping", repeats)
                return

    def _ask(self, at_random: bool) -> _Proposal:
        """Ask the sampler for a recipe, or draw a random one in its place, and bring it under the budget."""
        asked = self._study.ask(self._distributions)
        drawn = asked.params
        if at_random:
            drawn = {decision.name: self._rng.choice(decision.choices) for decision in self._space.decisions}
        assignment = self._repair(drawn, self._rng)
        attributes = self._study.get_trials(deepcopy=False)[asked.number].system_attrs
        self._study.tell(asked, state=TrialState.FAIL)  # what is evaluated is added as a trial of its own
        return _Proposal(assignment, SAMPLER, "", attributes)

    def _record(self, proposal: _Proposal, objective: Objective) -> FrozenTrial:
        """Measure one recipe, store the outcome and tell the sampler."""
        sites = self._space.sites_for(proposal.assignment)
        cost = self._costs.cost(sites).record()
        attributes: dict[str, Any] = {
            "origin": proposal.origin,
            "label": proposal.label,
            "recipe_hash": hash_sites(sites),
            "cost": cost.model_dump(exclude_none=True),
        }
        evaluation = self._evaluate_into_(attributes, sites, cost, objective)
        frozen = self._frozen(proposal, cost, evaluation, attributes)
        frozen.number = self._store.append(frozen)
        self._study.add_trial(frozen)
        if frozen.state == TrialState.COMPLETE:
            self._complete.append(frozen)
        self._seen.add(attributes["recipe_hash"])
        self._done += 1
        return frozen

    def _evaluate_into_(
        self, attributes: dict[str, Any], sites: Mapping[str, SiteConfig], cost: CostRecord, objective: Objective
    ) -> Evaluation | None:
        """Measure a recipe and note the outcome in ``attributes``; None if the recipe has no finite loss."""

        def keep_going(first_loss: float) -> bool:
            attributes["first_loss"] = first_loss
            return attributes["origin"] == UNIFORM or not self._is_to_be_pruned(self._chosen(cost), first_loss)

        asked: KeepGoing | None = keep_going if self._settings.prunes else None
        started = time.monotonic()
        try:
            evaluation = objective(sites, asked)
            if not math.isfinite(evaluation.loss):
                raise NonFiniteError(f"the discrepancy is {evaluation.loss}")
        except NonFiniteError as error:
            _logger.warning("a recipe failed: %s", error)
            attributes["error"] = str(error)
            return None
        if evaluation.score is not None:
            name = "score" if evaluation.is_complete else "first_score"
            attributes[name] = ScoreRecord(**vars(evaluation.score)).model_dump(exclude_none=True)
        attributes["seconds"] = time.monotonic() - started
        return evaluation

    def _chosen(self, cost: CostRecord) -> int:
        return cost.amount(self._limits.chosen.field)

    def _is_to_be_pruned(self, chosen_cost: int, first_loss: float) -> bool:
        """Compare the loss over the first images with that of the best recipe that costs no more."""
        rivals = [
            t for t in self._complete if t.values[0] <= chosen_cost and is_feasible(t) and "first_loss" in t.user_attrs
        ]
        if not rivals:
            return False
        rival = min(rivals, key=lambda trial: float(trial.values[1])).user_attrs["first_loss"]
        return bool(rival > 0 and first_loss > _PRUNED_ABOVE * rival)

    def _frozen(
        self, proposal: _Proposal, cost: CostRecord, evaluation: Evaluation | None, attributes: Mapping[str, Any]
    ) -> FrozenTrial:
        """Make the trial to store: failed without an evaluation, pruned with an incomplete one."""
        values = None
        if evaluation is None:
            state = TrialState.FAIL
        elif evaluation.is_complete:
            state, values = TrialState.COMPLETE, [self._chosen(cost), evaluation.loss]
        else:
            state = TrialState.PRUNED
        system = proposal.system_attributes
        return create_trial(
            state=state,
            values=values,
            params=dict(proposal.assignment),
            distributions=self._distributions,
            constraints=self._limits.excess(cost),
            user_attrs=dict(attributes),
            system_attrs={key: value for key, value in system.items() if key.startswith("NSGAII")},
        )
