"""A run as comma-separated values: one line a trial, units in the column names."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable

from autoq.report.summary import Point, RunSummary

_COLUMNS = (
    "id",
    "label",
    "origin",
    "bops",
    "group_bops",
    "weight_layers_only_bops",
    "weight_bytes",
    "kl_nats",
    "agreement_percent",
    "sqnr_db",
    "top1_percent",
    "feasible",
)
TRIAL_COLUMNS = (*_COLUMNS, "on_front")
PARETO_COLUMNS = (*_COLUMNS, "recipe_path")


def trials_csv(summary: RunSummary) -> str:
    """All completed trials, in the order in which they were given; floats are written so that they read back equal."""
    return _csv(summary.points, TRIAL_COLUMNS)


def pareto_csv(summary: RunSummary) -> str:
    """The front, cheapest first, with the path of each recipe relative to the run directory."""
    return _csv(summary.front, PARETO_COLUMNS)


def _csv(points: Iterable[Point], columns: tuple[str, ...]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([getattr(point, column) for column in columns] for point in points)
    return text.getvalue()
