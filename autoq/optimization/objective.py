"""Objectives of a search: the loss of a recipe by one proxy, and its score where it was evaluated for that."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from autoq.recipe import SiteConfig
from autoq.sensitivity.proxies import KL, joint_proxies

if TYPE_CHECKING:
    from autoq.scoring.discrepancy import Score
    from autoq.scoring.evaluator import Evaluator
    from autoq.sensitivity.table import SensitivityTable

KeepGoing = Callable[[float], bool]
"""Told the loss over the first images, says whether the others are worth their time."""


@dataclass(frozen=True)
class Evaluation:
    """The outcome for one recipe.

    Attributes:
        loss: by the proxy, to be minimised.
        score: all that the evaluation measured; None if the recipe was not evaluated.
        is_complete: False if it was stopped: ``loss`` and ``score`` are then over the first images alone, not to be
            compared with complete ones.
    """

    loss: float
    score: Score | None
    is_complete: bool = True


class Objective(Protocol):
    """What is minimised: measures recipes by one proxy."""

    def __call__(self, sites: Mapping[str, SiteConfig], keep_going: KeepGoing | None = None) -> Evaluation:
        """Measure a recipe.

        Args:
            sites: the recipe, in canonical form.
            keep_going: asked after the first images, if there are more; None: all images are evaluated.

        Raises:
            NonFiniteError: the quantized model produces NaN or infinity.
        """


class JointObjective:
    """The loss by a proxy that is read off an evaluation of the recipe."""

    def __init__(self, evaluator: Evaluator, proxy: str) -> None:
        """Read off the loss that ``autoq.sensitivity.proxies.PROXIES`` has under the name ``proxy``.

        One that adds up over operands is read off no evaluation: KL takes its place.
        """
        self._evaluator, self._loss_of = evaluator, joint_proxies().get(proxy, joint_proxies()[KL])

    def __call__(self, sites: Mapping[str, SiteConfig], keep_going: KeepGoing | None = None) -> Evaluation:
        """Measure a recipe, see ``Objective``."""
        asked = None if keep_going is None else lambda score: keep_going(self._loss_of(score))
        score = self._evaluator.evaluate(sites, asked)
        return Evaluation(self._loss_of(score), score, score.images == self._evaluator.images)


class AdditiveObjective:
    """The sum of the sensitivities of a recipe's options, without an evaluation."""

    def __init__(self, table: SensitivityTable) -> None:
        """Add up the losses of ``table``."""
        self._table = table

    def __call__(self, sites: Mapping[str, SiteConfig], keep_going: KeepGoing | None = None) -> Evaluation:  # noqa: ARG002
        """Measure a recipe, see ``Objective``."""
        options = ((site, operand, config) for site, operands in sites.items() for operand, config in operands.items())
        return Evaluation(math.fsum(self._table.loss(*option) for option in options), None)


class ScoredObjective:
    """The loss by one objective, and the score of an evaluation by another."""

    def __init__(self, loss: Objective, score: Objective) -> None:
        """Take the loss of ``loss`` and the score of ``score``."""
        self._loss, self._score = loss, score

    def __call__(self, sites: Mapping[str, SiteConfig], keep_going: KeepGoing | None = None) -> Evaluation:  # noqa: ARG002
        """Measure a recipe, see ``Objective``."""
        return Evaluation(self._loss(sites).loss, self._score(sites).score)


class KnownLoss:
    """Evaluates recipes whose loss by another proxy is known."""

    def __init__(self, objective: Objective, loss: float) -> None:
        """Evaluate by ``objective``, and keep ``loss``."""
        self._objective, self._loss = objective, loss

    def __call__(self, sites: Mapping[str, SiteConfig], keep_going: KeepGoing | None = None) -> Evaluation:  # noqa: ARG002
        """Measure a recipe, see ``Objective``."""
        return Evaluation(self._loss, self._objective(sites).score)
