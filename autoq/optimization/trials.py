"""Trials of a study read back: their names, costs and scores, and those of the front."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from optuna.trial import FrozenTrial, TrialState

from autoq.optimization.front import Point, best_within, knee, non_dominated
from autoq.recipe import CostRecord, ScoreRecord
from autoq.sensitivity.proxies import KL, PROXIES

UNIFORM, SAMPLER = "uniform", "sampler"
"""Origins of a trial."""


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
        proxy: what the search minimises; a name in ``autoq.sensitivity.proxies.PROXIES``.
    """

    id: str
    label: str
    origin: str
    assignment: Mapping[str, Any]
    cost: CostRecord
    score: ScoreRecord
    proxy: str = KL

    @property
    def loss(self) -> float:
        """What recipes are chosen by: the loss of the proxy, or KL where that needs no evaluation."""
        return PROXIES[self.proxy].loss_of(self.score)

    @property
    def point(self) -> Point:
        """Cost and loss."""
        return float(self.cost.bops), self.loss

    @classmethod
    def of(cls, trial: FrozenTrial, proxy: str = KL) -> EvaluatedTrial:
        """Read what ``StudyDriver`` wrote in a search that minimises ``proxy``."""
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
        )


def evaluated_trials(trials: Sequence[FrozenTrial], proxy: str = KL) -> list[EvaluatedTrial]:
    """Read the completed trials of a study that minimises ``proxy`` whose recipes were evaluated, in order."""
    return [EvaluatedTrial.of(t, proxy) for t in trials if t.state == TrialState.COMPLETE and "score" in t.user_attrs]


def shown_trials(trials: list[EvaluatedTrial], budget_bops: int) -> tuple[list[EvaluatedTrial], list[EvaluatedTrial]]:
    """Find the front within the budget, cheapest first, and the uniform points, which are shown beside it."""
    affordable = [trial for trial in trials if trial.cost.bops <= budget_bops]
    front = [affordable[i] for i in non_dominated([trial.point for trial in affordable])]
    return front, [trial for trial in trials if trial.origin == UNIFORM]


def evenly_spread(front: list[EvaluatedTrial], most: int) -> list[EvaluatedTrial]:
    """Choose at most ``most`` of a front, the ends among them: the last one is the best within the budget."""
    if len(front) <= most:
        return front
    step = (len(front) - 1) / max(1, most - 1)
    return [front[len(front) - 1 - round(index * step)] for index in range(most)][::-1]


def best_trial(front: list[EvaluatedTrial], budget_bops: int) -> EvaluatedTrial | None:
    """Find the trial of least loss within the budget; None if all cost more."""
    index = best_within([trial.point for trial in front], budget_bops)
    return None if index is None else front[index]


def knee_trial(front: list[EvaluatedTrial]) -> EvaluatedTrial:
    """Find the trial after which more BOPs buy little.

    Raises:
        ValueError: the front is empty.
    """
    return front[knee([trial.point for trial in front])]
