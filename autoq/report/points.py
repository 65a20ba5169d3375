"""Recipes of a run as its report shows them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from autoq.cost.kinds import BOPS

if TYPE_CHECKING:
    from autoq.runs.search.record import ImprovedKind

UNIFORM, PUBLISHED = "uniform", "published"
"""Origins of the points that a searched recipe has to beat: one width for all operands, in the schemes of the space, or
as a published method has it."""


@dataclass(frozen=True)
class Point:
    """One completed trial, or a published method.

    Attributes:
        id: what ``autoq export --pick`` and the page's address take (``w4a4``, ``trial-137``); unique.
        origin: ``uniform``, or where the recipe came from (``sampler``, ``allocation``, ...).
        label: what pictures and tables call it: ``w4a4`` for uniform points, ``trial 137`` for others.
        bops: total cost per image, group overhead included.
        group_bops: the part of ``bops`` that groups add.
        weight_layers_only_bops: cost without the attention products.
        weight_bytes: size of the weights with their scales.
        activation_bytes: of the largest set of live activations; None where it was not counted.
        latency_ns: by a latency table, in nanoseconds; None without one.
        cost_field: which of these costs the front is over.
        kl_nats: discrepancy from full precision.
        agreement_percent: images on which the prediction is full precision's; None for tasks that do not say so.
        sqnr_db: signal to quantization noise ratio of the output; infinite when outputs are equal.
        calibration_kl_nats: discrepancy on the calibration images, where ``kl_nats`` is on others and it was measured.
        labelled_kl_nats: discrepancy on the labelled images, which neither calibrated nor chose, where it was measured.
        other_loss: what recipes are chosen by; None: ``kl_nats``.
        metric: the task's main metric, where labels exist and the point was measured.
        feasible: whether it is within all budgets.
        on_front: whether no completed trial within them is better in both cost and loss.
        recipe: the recipe as JSON data, for front and uniform points; others cannot be picked on the page.
        recipe_path: where the recipe lies, relative to the run directory.
    """

    id: str
    origin: str
    label: str
    bops: int
    group_bops: int
    weight_layers_only_bops: int
    weight_bytes: int
    kl_nats: float
    agreement_percent: float | None
    sqnr_db: float
    calibration_kl_nats: float | None = None
    labelled_kl_nats: float | None = None
    other_loss: float | None = None
    metric: float | None = None
    feasible: bool = True
    on_front: bool = False
    recipe: Mapping[str, Any] | None = None
    recipe_path: str | None = None
    activation_bytes: int | None = None
    latency_ns: int | None = None
    cost_field: str = BOPS.field

    @property
    def cost(self) -> int:
        """The cost that the front is over."""
        found: int = getattr(self, self.cost_field)
        return found

    @property
    def loss(self) -> float:
        """What recipes are chosen by."""
        return self.kl_nats if self.other_loss is None else self.other_loss

    @property
    def is_uniform(self) -> bool:
        """Whether every operand has the same bits, in the schemes of the space."""
        return self.origin == UNIFORM

    @property
    def is_published(self) -> bool:
        """Whether this is a published method."""
        return self.origin == PUBLISHED


@dataclass(frozen=True)
class Improved:
    """A recipe that was finished or reconstructed after the search; its cost is that of the recipe as searched.

    Attributes:
        kind: which of these.
        point: the recipe as searched.
        kl_nats: discrepancy from full precision since.
        agreement_percent: images on which the prediction is full precision's; None for tasks that do not say so.
        sqnr_db: signal to quantization noise ratio of the output.
        metric: the task's main metric, where labels exist.
        iterations: training steps of each block; None where nothing is trained.
        images: that it learned from.
        recipe_path: where the improved recipe lies, relative to the run directory.
        other_loss: what recipes are chosen by, since; None: ``kl_nats``.
        labelled_kl_nats: discrepancy on the labelled images, since.
    """

    kind: ImprovedKind
    point: Point
    kl_nats: float
    agreement_percent: float | None
    sqnr_db: float
    metric: float | None
    iterations: int | None
    images: int
    recipe_path: str
    other_loss: float | None = None
    labelled_kl_nats: float | None = None

    @property
    def loss(self) -> float:
        """What recipes are chosen by, since."""
        return self.kl_nats if self.other_loss is None else self.other_loss

    @property
    def cost(self) -> int:
        """The cost that the front is over."""
        return self.point.cost
