"""A recipe in flight, and the trial that comes of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from optuna.distributions import BaseDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

from autoq.cost import Limits
from autoq.optimization.executors._base import Job, Result
from autoq.optimization.proposals import Proposal, nsga2_attributes
from autoq.recipe import CostRecord, ScoreRecord


@dataclass
class InFlight:
    """A recipe that is being evaluated.

    Attributes:
        proposal: that it comes from.
        job: that evaluates it.
        cost: of the recipe.
        times_lost: how often its evaluation was lost.
    """

    proposal: Proposal
    job: Job
    cost: CostRecord
    times_lost: int = 0

    def frozen(self, result: Result, distributions: Mapping[str, BaseDistribution], limits: Limits) -> FrozenTrial:
        """Make the trial to store: failed without an evaluation, pruned with an incomplete one.

        Args:
            result: of the job.
            distributions: of all decisions.
            limits: the budgets.
        """
        evaluation, values = result.evaluation, None
        if evaluation is None:
            state = TrialState.FAIL
        elif evaluation.is_complete:
            state, values = TrialState.COMPLETE, [self.cost.amount(limits.chosen.field), evaluation.loss]
        else:
            state = TrialState.PRUNED
        return create_trial(
            state=state,
            values=values,
            params=dict(self.proposal.assignment),
            distributions=dict(distributions),
            constraints=limits.excess(self.cost),
            # Dashboards show attributes of trials, but not their constraints.
            user_attrs=self._attributes(result) | {"within_budgets": limits.admit(self.cost)},
            system_attrs=nsga2_attributes(self.proposal),
        )

    def _attributes(self, result: Result) -> dict[str, Any]:
        """Return what the trial says of its recipe and of the evaluation."""
        attributes: dict[str, Any] = {
            "origin": self.proposal.origin,
            "label": self.proposal.label,
            "recipe_hash": self.proposal.recipe_hash,
            "cost": self.cost.model_dump(exclude_none=True),
        }
        if result.first_loss is not None:
            attributes["first_loss"] = result.first_loss
        if result.evaluation is None:
            attributes["error"] = result.error
        else:
            if (score := result.evaluation.score) is not None:
                name = "score" if result.evaluation.is_complete else "first_score"
                attributes[name] = ScoreRecord(**vars(score)).model_dump(exclude_none=True)
            attributes["seconds"] = result.seconds
        if result.worker:
            attributes |= {"worker": result.worker, "hardware": result.hardware}
        return attributes
