"""Proposals of a study: its uniform points, its exact allocation, and what the sampler asks for, within the budgets."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import optuna
from optuna.trial import FrozenTrial, Trial, TrialState, create_trial

from autoq.cost import CostModel, Limits
from autoq.optimization.samplers import AllocationPrior, SamplerEntry
from autoq.optimization.space import BudgetRepair
from autoq.optimization.space.uniform_points import UniformPoint
from autoq.optimization.storage import quiet_optuna
from autoq.optimization.trials import ALLOCATION, SAMPLER, UNIFORM
from autoq.recipe import CostRecord, SiteConfig, hash_sites


@dataclass(frozen=True)
class Proposal:
    """A recipe to evaluate.

    Attributes:
        assignment: of every decision.
        sites: the recipe that it makes, in canonical form.
        origin: ``uniform``, ``allocation`` or ``sampler``.
        label: of uniform points, such as ``w4a4``.
        system_attributes: what Optuna's sampler has written to its own trial.
    """

    assignment: Mapping[str, Any]
    sites: Mapping[str, SiteConfig]
    origin: str
    label: str = ""
    system_attributes: Mapping[str, Any] = field(default_factory=dict)

    @cached_property
    def recipe_hash(self) -> str:
        """The hash of the recipe."""
        return hash_sites(self.sites)


class Proposer:
    """Proposes in memory, in an Optuna study of its own that has finished trials and those in flight.

    A proposal over the budget is brought under it. What is in flight is a running trial there, with its parameters and
    constraints: samplers see it, and choose for themselves what they believe of its values.
    """

    def __init__(
        self,
        prior: AllocationPrior,
        costs: CostModel,
        limits: Limits,
        sampler: SamplerEntry,
        seed: int,
        points: Sequence[UniformPoint],
        past: Sequence[FrozenTrial],
    ) -> None:
        """Take up a study.

        Args:
            prior: the decisions, and the knowledge that the sampler starts from.
            costs: of recipes of the model.
            limits: the budgets.
            sampler: proposes recipes.
            seed: together with the number of past trials, determines the proposals.
            points: the uniform points.
            past: finished trials.
        """
        self._prior, self._costs, self._limits, self._points = prior, costs, limits, points
        self._space, self._sampler = prior.problem.space, sampler
        self._repair = BudgetRepair(costs, self._space, limits)
        start = (seed * 1_000_003 + len(past)) % 2**32
        self._rng = random.Random(start)  # noqa: S311 - not for secrets
        with quiet_optuna():
            self._study = optuna.create_study(directions=["minimize"] * 2, sampler=sampler.make(start, prior))
        self.distributions = prior.distributions
        self._choices = {decision.name: decision.choices for decision in self._space.decisions}
        self._study.add_trials(past)
        self._seen = {trial.user_attrs["recipe_hash"] for trial in past}
        self._labels = {trial.user_attrs["label"] for trial in past}

    def uniform_points(self) -> Iterator[Proposal]:
        """List the uniform points that are to be evaluated: without groups all, to compare with, at any cost.

        Those with groups are only a place to start from, for samplers that know no sensitivities.
        """
        for label, assignment in self._points:
            sites = self._space.sites_for(assignment)
            starts = not self._sampler.needs_sensitivities
            if " g" in label and not (starts and self._limits.admit(self._costs.cost(sites).record())):
                continue
            if label not in self._labels:
                yield Proposal(assignment, sites, UNIFORM, label, {"NSGAIISampler:generation": 0})

    def again(self, trial: FrozenTrial) -> Proposal:
        """Return the recipe of a stored trial."""
        sites = self._space.sites_for(trial.params)
        return Proposal(trial.params, sites, trial.user_attrs["origin"], trial.user_attrs["label"])

    def allocation(self) -> Proposal:
        """Return the exact allocation for the budgets; one that is a uniform point is proposed as that."""
        assignment = self._prior.allocate(self._prior.limit).assignment
        allocated = proposal = Proposal(assignment, self._space.sites_for(assignment), ALLOCATION)
        for label, point in self._points:
            uniform = Proposal(point, self._space.sites_for(point), UNIFORM, label)
            if uniform.recipe_hash == allocated.recipe_hash:
                proposal = uniform
                self._labels.add(label)
        return proposal

    def ask(self, at_random: bool) -> Proposal:
        """Ask the sampler for a recipe, or draw a random one in its place, and bring it under the budget."""
        asked = self._study.ask()
        drawn = asked.relative_params
        if missing := self.distributions.keys() - drawn.keys():
            drawn = drawn | {name: self._suggested(asked, name) for name in self.distributions if name in missing}
        wanted = drawn
        if at_random:
            wanted = {decision.name: self._rng.choice(decision.choices) for decision in self._space.decisions}
        assignment = self._repair(wanted, self._rng)
        attributes = self._study.get_trials(deepcopy=False)[asked.number].system_attrs
        proposal = Proposal(assignment, self._space.sites_for(assignment), SAMPLER, "", attributes)
        if assignment != drawn or not self.is_new(proposal):
            for name in self.distributions:  # else this trial need not say, as that of the recipe does
                self._suggested(asked, name)
        self._study.tell(asked, state=TrialState.FAIL)  # what is evaluated is a trial of its own
        return proposal

    def _suggested(self, asked: Trial, name: str) -> Any:
        return asked.suggest_categorical(name, self._choices[name])

    def is_new(self, proposal: Proposal) -> bool:
        """Tell whether the recipe is neither evaluated nor in flight."""
        return proposal.recipe_hash not in self._seen

    def start(self, proposal: Proposal, cost: CostRecord) -> int:
        """Let the sampler know that a recipe is in flight, and return the number by which it is known there."""
        trial = create_trial(
            state=TrialState.RUNNING,
            params=dict(proposal.assignment),
            distributions=self.distributions,
            constraints=self._limits.excess(cost),
            system_attrs=nsga2_attributes(proposal),
        )
        self._study.add_trial(trial)
        self._seen.add(proposal.recipe_hash)
        return len(self._study.get_trials(deepcopy=False)) - 1

    def finish(self, number: int, state: TrialState, values: Sequence[float] | None) -> None:
        """Let the sampler know what became of a recipe in flight."""
        self._study.tell(number, values, state)


def nsga2_attributes(proposal: Proposal) -> dict[str, Any]:
    """Return what NSGA-II has to find again in a trial, to take it for a parent."""
    return {key: value for key, value in proposal.system_attributes.items() if key.startswith("NSGAII")}
