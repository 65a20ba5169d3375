"""Proxies for accuracy, measured without labels: what a search may minimise in place of the KL divergence."""

from __future__ import annotations

import math
from collections.abc import Callable

from autoq.errors import SpaceError
from autoq.scoring.discrepancy import Score
from autoq.tasks import BaseTask
from autoq.validation import did_you_mean

AGREEMENT = "agreement"
"""Of tasks whose outputs can say the same, such as the likeliest class."""


def _disagreement(score: Score) -> float:
    """Percentage of images on which the prediction differs from full precision's."""
    return math.nan if score.agreement_percent is None else 100 - score.agreement_percent


LOSSES: dict[str, Callable[[Score], float]] = {
    "kl": lambda score: score.kl_nats,
    "mse": lambda score: score.output_mse,
    AGREEMENT: _disagreement,
}
"""Proxies that are read off a joint evaluation, each to be minimised: KL divergence from full precision in nats, mean
squared error of an element of the output, percentage of images on which the prediction differs."""

APH = "aph"
"""Squared errors of all products' outputs, each weighted by the average perturbation Hessian of APHQ-ViT
(``autoq.sensitivity.perturbation_hessian``)."""

FISHER = "fisher"
"""The KL divergence to second order in the errors of products' outputs: the Gauss-Newton form ½ eᵀ Jᵀ F J e with the
Fisher information F of the task's distribution (Martens, JMLR 2020), by random probes as in Hutchinson's estimator
(``autoq.sensitivity.fisher``)."""

ADDITIVE: tuple[str, ...] = (APH, FISHER)
"""Proxies that need no evaluation of a recipe: the losses of its operands add up."""

PROXIES = ("kl", FISHER, APH, "mse", AGREEMENT)
"""``--proxy``."""


def check_proxy_name(name: str, task: BaseTask | None = None) -> str:
    """Return ``name`` itself.

    Args:
        name: as in ``--proxy``.
        task: that it is to serve; None: any.

    Raises:
        SpaceError: there is no such proxy, or it has no meaning for the task.
    """
    if name not in PROXIES:
        raise SpaceError(f"no such proxy {name!r}, there is {', '.join(PROXIES)}.{did_you_mean(name, PROXIES)}")
    if name == AGREEMENT and task is not None and not task.has_agreement:
        others = ", ".join(each for each in PROXIES if each != AGREEMENT)
        raise SpaceError(
            f"proxy {name!r} counts equal predictions, which the task {task.name!r} has none of: use {others}"
        )
    return name
