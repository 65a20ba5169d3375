"""What a search asks of a recipe: its loss by one proxy, and its score where it was evaluated for that."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from autoq.recipe import SiteConfig
from autoq.scoring.discrepancy import Score
from autoq.scoring.evaluator import Evaluator
from autoq.sensitivity.proxies import LOSSES
from autoq.sensitivity.table import SensitivityTable

KeepGoing = Callable[[float], bool]
"""Asked with the loss over the first images whether the others are worth their time."""


@dataclass(frozen=True)
class Evaluation:
    """The outcome for one recipe.

    Attributes:
        loss: by the proxy, to be minimised.
        score: all that the evaluation has told; None if the recipe was not evaluated.
        is_complete: False if it was stopped: ``loss`` and ``score`` are then over the first images alone, not to be
            compared with complete ones.
    """

    loss: float
    score: Score | None
    is_complete: bool = True


class Objective(Protocol):
    """Measures recipes by one proxy."""

    def __call__(self, sites: Mapping[str, SiteConfig], go_on: KeepGoing | None = None) -> Evaluation:
        """The loss of a recipe.

        Raises:
            NonFiniteError: the quantized model produces NaN or infinity.
        """


class JointObjective:
    """By evaluating the recipe: ``kl``, ``mse``, ``agreement``."""

    def __init__(self, evaluator: Evaluator, proxy: str) -> None:
        """Objective by the loss that ``autoq.sensitivity.proxies.LOSSES`` has under the name ``proxy``."""
        self._evaluator, self._loss_of = evaluator, LOSSES[proxy]

    def __call__(self, sites: Mapping[str, SiteConfig], go_on: KeepGoing | None = None) -> Evaluation:
        """See ``Objective``."""
        asked = None if go_on is None else lambda score: go_on(self._loss_of(score))
        score = self._evaluator.evaluate(sites, asked)
        return Evaluation(self._loss_of(score), score, score.images == self._evaluator.images)


class AdditiveObjective:
    """By adding up sensitivities, without an evaluation: ``fisher``, ``aph``."""

    def __init__(self, table: SensitivityTable) -> None:
        """Add up the losses of ``table``."""
        self._table = table

    def __call__(self, sites: Mapping[str, SiteConfig], go_on: KeepGoing | None = None) -> Evaluation:  # noqa: ARG002
        """See ``Objective``."""
        options = ((site, operand, config) for site, operands in sites.items() for operand, config in operands.items())
        return Evaluation(math.fsum(self._table.loss(*option) for option in options), None)
