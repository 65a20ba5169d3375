"""Proxies for accuracy, measured without labels: what a search may minimise in place of the KL divergence.

To add one that can be read off an evaluation, add a line to ``PROXIES``. Nothing heavy is imported here: the help of
the command line lists them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from autoq.errors import SpaceError
from autoq.registry import Registry
from autoq.units import KL_LOSS, Loss

if TYPE_CHECKING:
    from autoq.tasks import BaseTask

KL, MSE, AGREEMENT = "kl", "mse", "agreement"
APH, FISHER = "aph", "fisher"


class Measured(Protocol):
    """What a joint evaluation of a recipe measured: a ``Score``, or its record."""

    @property
    def kl_nats(self) -> float:
        """Mean divergence from full precision."""

    @property
    def agreement_percent(self) -> float | None:
        """Images on which both predict the same."""

    @property
    def output_mse(self) -> float | None:
        """Mean squared error of the output."""


@dataclass(frozen=True)
class Proxy:
    """A loss that stands for accuracy.

    Attributes:
        description: what it is, in a few words, for ``--help``.
        of_score: the loss, to be minimised, from a joint evaluation of a recipe; None if a recipe needs no evaluation,
            because the losses of its options add up (``autoq.sensitivity.measure``).
        needs_agreement: whether it asks for outputs that can say the same, such as the likeliest class.
        loss: what recipes are chosen by; those of additive proxies, which stand for the KL divergence, by that.
    """

    description: str
    of_score: Callable[[Measured], float] | None = None
    needs_agreement: bool = False
    loss: Loss = KL_LOSS

    def loss_of(self, score: Measured) -> float:
        """Return the loss that a measured recipe is chosen by."""
        return score.kl_nats if self.of_score is None else self.of_score(score)

    @property
    def is_additive(self) -> bool:
        """Whether the losses of options add up."""
        return self.of_score is None


def _mean_squared_error(score: Measured) -> float:
    """Return the squared error; infinity where a record of an early version lacks it."""
    return math.inf if score.output_mse is None else score.output_mse


def _disagreement(score: Measured) -> float:
    """Compute the percentage of images on which the prediction differs from full precision's."""
    return math.nan if score.agreement_percent is None else 100 - score.agreement_percent


PROXIES: Registry[Proxy] = Registry(
    "proxy",
    SpaceError,
    {
        KL: Proxy("KL divergence from full precision", lambda score: score.kl_nats),
        # The Gauss-Newton form ½ eᵀ Jᵀ F J e with the Fisher information F of the task's distribution (Martens, JMLR
        # 2020), by random probes as in Hutchinson's estimator (autoq.sensitivity.fisher).
        FISHER: Proxy("the KL divergence to second order, without evaluations"),
        # Weighted by the average perturbation Hessian of APHQ-ViT (autoq.sensitivity.perturbation_hessian).
        APH: Proxy("squared errors weighted by APHQ-ViT's Hessian, without evaluations"),
        MSE: Proxy(
            "mean squared error of the output",
            _mean_squared_error,
            loss=Loss("output_mse", "output MSE", "mean squared error of the output"),
        ),
        AGREEMENT: Proxy(
            "predictions that differ from full precision's",
            _disagreement,
            needs_agreement=True,
            loss=Loss("disagreement_percent", "disagreement", "predictions that are not full precision's", "%"),
        ),
    },
)
"""Proxies by the name that ``--proxy`` takes."""


def joint_proxies() -> dict[str, Callable[[Measured], float]]:
    """List the proxies that are read off a joint evaluation.

    >>> list(joint_proxies())
    ['kl', 'mse', 'agreement']
    """
    return {name: proxy.of_score for name, proxy in PROXIES.items() if proxy.of_score is not None}


def check_proxy_name(name: str, task: BaseTask | None = None) -> str:
    """Return ``name`` itself.

    Args:
        name: as in ``--proxy``.
        task: that it is to serve; None: any.

    Raises:
        SpaceError: there is no such proxy, or it has no meaning for the task.
    """
    if PROXIES.lookup(name).needs_agreement and task is not None and not task.has_agreement:
        others = ", ".join(each for each, proxy in PROXIES.items() if not proxy.needs_agreement)
        raise SpaceError(
            f"proxy {name!r} counts equal predictions, which the task {task.name!r} has none of: use {others}"
        )
    return name


LOSS_NAMES = {
    "kl": "KL from full precision (nats)",
    "fisher": "KL estimated to second order (nats)",
    "aph": "KL estimated from output errors (nats)",
    "mse": "mean squared error of the output",
    "agreement": "images predicted otherwise than by full precision (%)",
}
"""Proxy to what its loss is, with its unit."""
