"""Proxies for accuracy, measured without labels: what a search may minimise in place of the KL divergence."""

from __future__ import annotations

from collections.abc import Callable

from autoq.errors import SpaceError
from autoq.scoring.discrepancy import Score
from autoq.validation import did_you_mean

LOSSES: dict[str, Callable[[Score], float]] = {
    "kl": lambda score: score.kl_nats,
    "mse": lambda score: score.logit_mse,
    "agreement": lambda score: 100 - score.agreement_percent,
}
"""Proxies that are read off a joint evaluation, each to be minimised: KL divergence from full precision in nats, mean
squared error of a logit, percentage of images whose most likely class differs from full precision's."""

APH = "aph"
"""Squared errors of all products' outputs, each weighted by the average perturbation Hessian of APHQ-ViT
(``autoq.sensitivity.perturbation_hessian``)."""

FISHER = "fisher"
"""The KL divergence to second order in the errors of products' outputs: the Gauss-Newton form ½ eᵀ Jᵀ F J e with the
softmax's Fisher information F (Martens, JMLR 2020), by random probes as in Hutchinson's estimator
(``autoq.sensitivity.fisher``)."""

ADDITIVE: tuple[str, ...] = (APH, FISHER)
"""Proxies that need no evaluation of a recipe: the losses of its operands add up."""

PROXIES = ("kl", FISHER, APH, "mse", "agreement")
"""``--proxy``."""


def check_proxy_name(name: str) -> str:
    """``name`` itself.

    Raises:
        SpaceError: there is no such proxy.
    """
    if name not in PROXIES:
        raise SpaceError(f"no such proxy {name!r}, there is {', '.join(PROXIES)}.{did_you_mean(name, PROXIES)}")
    return name
