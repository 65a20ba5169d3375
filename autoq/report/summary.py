"""What a report shows: a finished or interrupted run as plain data, free of models, studies and tensors."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from autoq.cost.kinds import KINDS, CostKind
from autoq.cost.limits import Limits
from autoq.report.points import Improved, Point
from autoq.units import KL_LOSS, Loss, Metric

if TYPE_CHECKING:
    from autoq.recipe import LabelsBy
    from autoq.sensitivity.table import SensitivityTable
    from autoq.tasks import BaseTask


@dataclass(frozen=True)
class SiteRow:
    """One site of the model, in network order.

    Attributes:
        name: name of the site, the key of a recipe's ``sites``.
        op: kind of node.
        macs: multiply-accumulates per image.
        operands: names of its operands.
    """

    name: str
    op: str
    macs: int
    operands: tuple[str, ...]


@dataclass(frozen=True)
class Meaning:
    """What the numbers of a run mean, as its task says.

    Attributes:
        metric: the task's main one.
        divergence: what the discrepancy is, in words.
        loss: what recipes are chosen by.
        element: what one number of the model's output is called.
        has_agreement: whether predictions can be the same.
    """

    metric: Metric
    divergence: str
    element: str
    has_agreement: bool
    loss: Loss = KL_LOSS

    @classmethod
    def of(cls, task: BaseTask, loss: Loss = KL_LOSS) -> Meaning:
        """Read what a task says, in a search that chooses by ``loss``."""
        return cls(task.main_metric, task.divergence_in_words, task.element, task.has_agreement, loss)


@dataclass(frozen=True)
class RunSummary:
    """A run, as its report shows it.

    Attributes:
        model: name of the model.
        data: name of the calibration data.
        images: calibration images.
        scoring_images: other images that the discrepancy is the mean over; 0: that of the calibration images.
        budgets: kind of cost to its budget, as it was given (``w4a4``, ``12.5G``) and as a number.
        points: all completed trials.
        published: published methods at the width of the budget, which are no trials.
        baseline_bits: widths of weights and activations to compare the chosen recipe with.
        sites: all sites, in network order.
        best_id: id of the chosen recipe; None when no trial is within the budget.
        full_precision_bops: cost of the model at 32 bits.
        macs: multiply-accumulates of the model per image.
        meaning: of the numbers.
        full_precision_metric: the task's main metric before quantization, where labels exist.
        eval_data: name of the labelled images, if there are any.
        eval_images: how many labelled images there are.
        labels_by: how their labels were matched with the model's outputs; None where that is not known.
        accuracy_left_out: recipes whose accuracy was not measured, for the time limit.
        hypervolume: of the front.
        hypervolume_reference: its reference point, in words.
        directory: the run directory as a person would type it; goes into the commands that the page shows.
        interrupted: whether the run stopped before its last trial.
        improved: recipes that were finished after the search, then those that were reconstructed, each cheapest first.
        sensitivity: what operands lose alone, where it was measured.
        random_weights: whether the model was not trained.
        settings: what else is worth keeping (seed, sampler, trials, versions, wall time), shown in this order.
    """

    model: str
    data: str
    images: int
    budgets: Mapping[str, tuple[str, int]]
    points: tuple[Point, ...]
    sites: tuple[SiteRow, ...]
    best_id: str | None
    full_precision_bops: int
    macs: int
    meaning: Meaning
    scoring_images: int = 0
    published: tuple[Point, ...] = ()
    baseline_bits: tuple[int, int] | None = None
    full_precision_metric: float | None = None
    eval_data: str | None = None
    eval_images: int | None = None
    labels_by: LabelsBy | None = None
    accuracy_left_out: int = 0
    hypervolume: float | None = None
    hypervolume_reference: str = ""
    directory: str = "DIR"
    interrupted: bool = False
    improved: tuple[Improved, ...] = ()
    sensitivity: SensitivityTable | None = None
    random_weights: bool = False
    settings: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check that there is something to draw.

        Raises:
            ValueError: ids repeat, ``best_id`` is not among them, or a discrepancy or cost is not a finite number.
        """
        ids = [point.id for point in self.compared]
        if len(set(ids)) < len(ids):
            raise ValueError(f"point ids repeat: {sorted({name for name in ids if ids.count(name) > 1})}")
        if self.best_id is not None and self.best_id not in ids:
            raise ValueError(f"best_id {self.best_id!r} is not the id of a point")
        for point in self.compared:
            if not math.isfinite(point.loss) or point.cost <= 0:
                raise ValueError(
                    f"point {point.id!r} has loss {point.loss} and cost {point.cost}; "
                    "leave failed trials out of the summary"
                )

    @property
    def limits(self) -> Limits:
        """All budgets."""
        return Limits({name: limit for name, (_, limit) in self.budgets.items()})

    @property
    def kind(self) -> CostKind:
        """The cost that the front is over."""
        return self.limits.chosen

    @property
    def budget(self) -> int | None:
        """The budget of that cost, if there is one."""
        return self.limits.limit

    @property
    def budget_text(self) -> str:
        """That budget as it was given."""
        return self.budgets[self.kind.name][0] if self.kind.name in self.budgets else ""

    @property
    def costs_shown(self) -> list[CostKind]:
        """The costs that are known of every point."""
        return [kind for kind in KINDS.values() if all(getattr(p, kind.field) is not None for p in self.compared)]

    @property
    def metric(self) -> Metric:
        """The metric that tables and pictures show beside the discrepancy."""
        return self.meaning.metric

    @property
    def loss(self) -> Loss:
        """What recipes are chosen by."""
        return self.meaning.loss

    @property
    def best(self) -> Point | None:
        """The chosen recipe."""
        return next((point for point in self.points if point.id == self.best_id), None)

    @property
    def front(self) -> list[Point]:
        """The non-dominated points, cheapest first."""
        return sorted((point for point in self.points if point.on_front), key=lambda point: point.cost)

    @property
    def uniform(self) -> list[Point]:
        """The uniform points, cheapest first."""
        return sorted((point for point in self.points if point.is_uniform), key=lambda point: point.cost)

    @property
    def baseline(self) -> Point | None:
        """The best of the published methods and the uniform point of the same width: what the result is compared with.

        Where the space has no such point, the best uniform one within the budget. A baseline may cost a little more
        than the budget: for the image at 8 bits, or for groups.
        """
        wanted = None if self.baseline_bits is None else "w{}a{}".format(*self.baseline_bits)
        uniform = [point for point in self.uniform if point.label == wanted]
        uniform = uniform or [point for point in self.uniform if point.feasible]
        return min((*uniform, *self.published), key=lambda point: (point.loss, point.cost), default=None)

    @property
    def is_judged(self) -> bool:
        """Whether the chosen recipe and its baseline were compared on labelled images, which chose neither."""
        told = [point for point in (self.best, self.baseline) if point is not None]
        return self.loss == KL_LOSS and bool(told) and all(point.labelled_kl_nats is not None for point in told)

    @property
    def compared(self) -> tuple[Point, ...]:
        """All points that are drawn: trials and published methods."""
        return (*self.points, *self.published)

    @property
    def has_labels(self) -> bool:
        """Whether any point was measured for accuracy."""
        measured: tuple[Point | Improved, ...] = (*self.compared, *self.improved)
        return any(point.metric is not None for point in measured)

    def improved_from(self, point: Point) -> list[Improved]:
        """Return what was made of a recipe after the search, the furthest last."""
        return [found for found in self.improved if found.point.id == point.id]
