"""Axes over the quantities of a run, the same on the picture and on the page."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from autoq.report.points import Improved, Point
from autoq.report.summary import RunSummary

Quantity = Literal["loss", "metric"]
"""What an axis shows of a point: the attribute."""


@dataclass(frozen=True)
class Scale:
    """An axis over one quantity of the points.

    Attributes:
        quantity: the attribute of a point that it shows.
        low: what the axis starts with; points below it are drawn on it.
        high: what it ends with.
        log: whether it is logarithmic.
    """

    quantity: Quantity
    low: float
    high: float
    log: bool = False

    def value(self, point: Point | Improved) -> float | None:
        """Return the measured value of ``point``; None if it has none."""
        value: float | None = getattr(point, self.quantity)
        return value

    def height(self, point: Point | Improved) -> float | None:
        """Return the height at which ``point`` is drawn."""
        value = self.value(point)
        return None if value is None else max(value, self.low)

    def is_below(self, point: Point | Improved) -> bool:
        """Return whether ``point`` lies below the limits of the axis."""
        value = self.value(point)
        return value is not None and value < self.low


def make_scale(summary: RunSummary, quantity: Quantity) -> Scale:
    """Make the axis that shows ``quantity`` for all points of a run and what was made of them after the search."""
    points = (*summary.compared, *summary.improved)
    values = [value for point in points if (value := getattr(point, quantity)) is not None]
    if quantity == "loss":
        return _loss_scale(values)
    if (full := summary.full_precision_metric) is not None:
        values.append(full)
    return percent_scale(values) if summary.metric.unit == "%" else _error_scale(values)


def _loss_scale(values: Sequence[float]) -> Scale:
    positive = [value for value in values if value > 0]
    if not positive:
        return Scale("loss", 0.0, 1.0)
    # Zero has no place on a logarithmic axis: it is drawn at the bottom, below all others.
    low = min(positive) / (4 if len(positive) < len(values) else 1)
    return Scale("loss", low, max(positive), log=True)


def percent_scale(values: Sequence[float]) -> Scale:
    """Make the axis over percentages that are better when higher, cut where it would flatten all that is good."""
    if not values:
        return Scale("metric", 0.0, 100.0)
    # A collapsed 2-bit model must not flatten the differences between all others, nor noise fill the picture.
    high = max(values)
    span = max(5.0, 5 * (high - statistics.median(values)))
    low = min(max(min(values), high - span), high - 2.0)
    return Scale("metric", max(low, 0.0), max(high, 2.0))


def _error_scale(values: Sequence[float]) -> Scale:
    if not values:
        return Scale("metric", 0.0, 1.0)
    low, high = min(values), max(values)
    return Scale("metric", low, high if high > low else low + 1.0, log=low > 0 and is_wide(values))


def is_wide(values: Sequence[float]) -> bool:
    """Return whether values spread so far that they need a logarithmic axis."""
    return max(values) > 5 * min(values)
