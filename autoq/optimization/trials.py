"""Trials of a study read back: their names, costs and scores, and those of the front."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from optuna.trial import FrozenTrial, TrialState

from autoq.cost import BOPS, CostKind, Limits
from autoq.optimization.front import Point, knee, non_dominated
from autoq.recipe import CostRecord, ScoreRecord
from autoq.sensitivity.proxies import KL, PROXIES

UNIFORM, ALLOCATION, SAMPLER = "uniform", "allocation", "sampler"
"""Origins of a trial."""


@dataclass(frozen=True)
class EvaluatedTrial:
    """A completed trial as read back from the study.

    Attributes:
        id: ``w4a4`` for uniform points, ``trial-137`` for others.
        label: for people: ``w4a4``, ``trial 137``.
        origin: ``uniform``, ``allocation`` (exact, of sensitivities alone) or ``sampler``.
        assignment: the decisions.
        cost: of its recipe.
        score: of its recipe.
        proxy: what the search minimises; a name in ``autoq.sensitivity.proxies.PROXIES``.
        cost_kind: the kind of cost that the front is over.
        recipe_hash: of the recipe that was evaluated; None where the study does not say.
    """

    id: str
    label: str
    origin: str
    assignment: Mapping[str, Any]
    cost: CostRecord
    score: ScoreRecord
    proxy: str = KL
    cost_kind: CostKind = BOPS
    recipe_hash: str | None = None

    @property
    def loss(self) -> float:
        """What recipes are chosen by: the loss of the proxy, or KL where that needs no evaluation."""
        return PROXIES[self.proxy].loss_of(self.score)

    @property
    def point(self) -> Point:
        """Cost and loss."""
        return float(self.chosen_cost), self.loss

    @property
    def chosen_cost(self) -> int:
        """The cost that the front is over."""
        return self.cost.amount(self.cost_kind.field)

    @classmethod
    def of(cls, trial: FrozenTrial, proxy: str = KL, cost_kind: CostKind = BOPS) -> EvaluatedTrial:
        """Read what ``StudyDriver`` wrote in a search that minimises ``proxy`` over a kind of cost."""
        attributes = trial.user_attrs
        uniform = attributes["origin"] == UNIFORM
        return cls(
            id=attributes["label"].replace(" ", "-") if uniform else f"trial-{trial.number}",
            label=attributes["label"] if uniform else f"trial {trial.number}",
            origin=attributes["origin"],
            assignment=trial.params,
            cost=CostRecord(**attributes["cost"]),
            score=ScoreRecord(**attributes["score"]),
            proxy=proxy,
            cost_kind=cost_kind,
            recipe_hash=attributes.get("recipe_hash"),
        )


def is_feasible(trial: FrozenTrial) -> bool:
    """Tell whether a trial is within all budgets of its study."""
    return all(excess <= 0 for excess in trial.constraints.values())


def evaluated_trials(
    trials: Sequence[FrozenTrial], proxy: str = KL, cost_kind: CostKind = BOPS
) -> list[EvaluatedTrial]:
    """Read the completed trials of a study whose recipes were evaluated, in order; arguments as ``EvaluatedTrial``."""
    return [
        EvaluatedTrial.of(t, proxy, cost_kind)
        for t in trials
        if t.state == TrialState.COMPLETE and "score" in t.user_attrs
    ]


def shown_trials(trials: list[EvaluatedTrial], limits: Limits) -> tuple[list[EvaluatedTrial], list[EvaluatedTrial]]:
    """Find the front within all budgets, cheapest first, and the uniform points, which are shown beside it."""
    affordable = [trial for trial in trials if limits.admit(trial.cost)]
    front = [affordable[i] for i in non_dominated([trial.point for trial in affordable])]
    return front, [trial for trial in trials if trial.origin == UNIFORM]


def evenly_spread(front: list[EvaluatedTrial], most: int) -> list[EvaluatedTrial]:
    """Choose at most ``most`` of a front, the ends among them: the last one is the best within the budget."""
    if len(front) <= most:
        return front
    step = (len(front) - 1) / max(1, most - 1)
    return [front[len(front) - 1 - round(index * step)] for index in range(most)][::-1]


def best_trial(trials: list[EvaluatedTrial], limits: Limits) -> EvaluatedTrial | None:
    """Find the trial of least loss within all budgets; None if all cost more."""
    front, _ = shown_trials(trials, limits)
    return front[-1] if front else None


def knee_trial(front: list[EvaluatedTrial]) -> EvaluatedTrial:
    """Find the trial after which more cost buys little.

    Raises:
        ValueError: the front is empty.
    """
    return front[knee([trial.point for trial in front])]


def chosen_trials(front: list[EvaluatedTrial], limits: Limits) -> list[EvaluatedTrial]:
    """Choose what ``autoq export --pick best`` and ``--pick knee`` mean; one trial if they mean the same.

    Args:
        front: within the budget, cheapest first.
        limits: the budgets.
    """
    best = best_trial(front, limits)
    if best is None:
        return []
    bend = knee_trial(front)
    return [best] if bend.id == best.id else [best, bend]
