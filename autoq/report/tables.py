"""Tables of a run as comma-separated values: one line a trial, units in the column names."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from typing import Any

from autoq.cost.kinds import KINDS
from autoq.report.points import Point
from autoq.report.summary import RunSummary
from autoq.units import KL_LOSS

_METRIC, _LOSS = "metric", "loss"
"""Attributes of the task's main metric and of what recipes are chosen by, whose columns have names of their own."""
_COLUMNS = (
    "id",
    "label",
    "origin",
    "bops",
    "group_bops",
    "weight_layers_only_bops",
    "weight_bytes",
    "activation_bytes",
    "latency_ns",
    "kl_nats",
    "calibration_kl_nats",
    "labelled_kl_nats",
    _LOSS,
    "agreement_percent",
    "sqnr_db",
    _METRIC,
    "feasible",
)
_COMPARED = ("kl_nats", "labelled_kl_nats", _LOSS, "agreement_percent", _METRIC)
"""Columns of an improved recipe that are written before and after."""


def trials_csv(summary: RunSummary) -> str:
    """Format all completed trials as comma-separated values, in the order given; floats read back equal."""
    return _csv(summary, summary.points, (*_COLUMNS, "on_front"))


def pareto_csv(summary: RunSummary) -> str:
    """Format the front as searched, cheapest first, with recipes' paths relative to the run directory."""
    return _csv(summary, summary.front, (*_COLUMNS, "recipe_path"))


def baselines_csv(summary: RunSummary) -> str:
    """Format what the result is compared with: uniform points and published methods, cheapest first."""
    points = sorted((*summary.uniform, *summary.published), key=lambda point: point.cost)
    return _csv(summary, points, (*_COLUMNS, "recipe_path"))


def improved_csv(summary: RunSummary) -> str:
    """Format the recipes that were finished or reconstructed after the search, as searched and since."""
    compared = _without_twins(_COMPARED, summary)
    pairs = [column for name in (_named(each, summary) for each in compared) for column in (f"{name}_before", name)]
    rows = (
        [
            *(found.point.id, found.kind, found.point.label, found.point.bops),
            *(getattr(side, attribute) for attribute in compared for side in (found.point, found)),
            *(found.iterations, found.images, found.recipe_path),
        ]
        for found in summary.improved
    )
    return _write(rows, ["id", "kind", "label", "bops", *pairs, "iterations", "images", "recipe_path"])


def _csv(summary: RunSummary, points: Iterable[Point], attributes: tuple[str, ...]) -> str:
    shown = _without_twins(attributes, summary)
    rows = ([getattr(point, attribute) for attribute in shown] for point in points)
    return _write(rows, [_named(attribute, summary) for attribute in shown])


def _without_twins(attributes: tuple[str, ...], summary: RunSummary) -> list[str]:
    """Leave the loss out where it is the KL divergence, which has a column anyway, and costs that are not known."""
    known = {kind.field for kind in summary.costs_shown}
    left_out = {kind.field for kind in KINDS.values()} - known | ({_LOSS} if summary.loss == KL_LOSS else set())
    return [attribute for attribute in attributes if attribute not in left_out]


def _named(attribute: str, summary: RunSummary) -> str:
    return {_METRIC: summary.metric.name, _LOSS: summary.loss.name}.get(attribute, attribute)


def _write(rows: Iterable[list[Any]], columns: Sequence[str]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(rows)
    return text.getvalue()
