"""A run as comma-separated values: one line a trial, units in the column names."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable
from typing import Any

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
RECONSTRUCTED_COLUMNS = (
    "id",
    "label",
    "bops",
    "kl_nats_before",
    "kl_nats",
    "agreement_percent_before",
    "agreement_percent",
    "top1_percent_before",
    "top1_percent",
    "iterations",
    "images",
    "recipe_path",
)
TRIAL_COLUMNS = (*_COLUMNS, "on_front")
PARETO_COLUMNS = (*_COLUMNS, "recipe_path")


def trials_csv(summary: RunSummary) -> str:
    """All completed trials, in the order in which they were given; floats are written so that they read back equal."""
    return _csv(summary.points, TRIAL_COLUMNS)


def pareto_csv(summary: RunSummary) -> str:
    """The front as searched, cheapest first, with the path of each recipe relative to the run directory."""
    return _csv(summary.front, PARETO_COLUMNS)


def reconstructed_csv(summary: RunSummary) -> str:
    """The recipes that were reconstructed after the search, before and after."""
    rows = (
        [
            *(found.point.id, found.point.label, found.bops, found.point.kl_nats, found.kl_nats),
            *(found.point.agreement_percent, found.agreement_percent, found.point.top1_percent, found.top1_percent),
            *(found.iterations, found.images, found.recipe_path),
        ]
        for found in summary.reconstructed
    )
    return _write(rows, RECONSTRUCTED_COLUMNS)


def _csv(points: Iterable[Point], columns: tuple[str, ...]) -> str:
    return _write(([getattr(point, column) for column in columns] for point in points), columns)


def _write(rows: Iterable[list[Any]], columns: tuple[str, ...]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(rows)
    return text.getvalue()
