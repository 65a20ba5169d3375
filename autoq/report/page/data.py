"""What the page embeds of a run, for ``script/data.js``."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from autoq.cost.kinds import CostKind
from autoq.report.page.recipes import RecipeEncoder
from autoq.report.points import Improved, Point
from autoq.report.scales import make_scale, percent_scale
from autoq.report.summary import RunSummary
from autoq.report.words import improvement, sensitivity_note, sentence
from autoq.units import KL_LOSS

_HEADINGS = {"bops": "BOPs", "size": "Weights", "activations": "Activations", "latency": "Latency"}
_LOSSES = ("kl_nats", "calibration_kl_nats", "labelled_kl_nats", "agreement_percent", "sqnr_db", "metric")


def page_data(summary: RunSummary) -> dict[str, Any]:
    """Return what the page shows of a run: plain data, points as columns."""
    return {
        "directory": summary.directory,
        "budget": summary.budget,
        "limits": {kind.field: limit for kind, limit in _limits(summary)},
        "best_id": summary.best_id,
        "baseline_id": summary.baseline.id if summary.baseline else None,
        **_meanings(summary),
        "axes": {"x": _cost_axes(summary), "y": _figure_axes(summary)},
        **_points(summary),
        "improved": [_improved(found, summary) for found in summary.improved],
        "sites": [asdict(site) for site in summary.sites],
        "sensitivity": _sensitivity(summary),
    }


def _limits(summary: RunSummary) -> list[tuple[CostKind, int]]:
    return [(kind, summary.limits.most[kind.name]) for kind in summary.costs_shown if kind.name in summary.limits.most]


def _meanings(summary: RunSummary) -> dict[str, Any]:
    metric, loss, kind = summary.metric, summary.loss, summary.kind
    return {
        "cost": {"key": kind.field, "title": kind.title, "heading": _HEADINGS[kind.name], "unit": kind.unit},
        "costs": [
            {"key": each.field, "title": each.title, "heading": _HEADINGS[each.name]} for each in summary.costs_shown
        ],
        "loss": {"title": loss.title, "unit": loss.unit, "axis": loss.axis_label, "is_kl": loss == KL_LOSS},
        "metric": {
            "title": metric.title,
            "heading": sentence(metric.title),
            "is_percentage": metric.unit == "%",
        },
        "has_labels": summary.has_labels,
        "has_agreement": summary.meaning.has_agreement,
        "is_held_out": summary.scoring_images > 0,
        "full_precision_metric": summary.full_precision_metric,
    }


def _cost_axes(summary: RunSummary) -> list[dict[str, Any]]:
    """The costs that can be drawn across, the one that the front is over first."""
    kinds = [summary.kind, *(kind for kind in summary.costs_shown if kind != summary.kind)]
    return [{"key": kind.field, "title": kind.axis, "unit": kind.unit} for kind in kinds]


def _figure_axes(summary: RunSummary) -> list[dict[str, Any]]:
    """The figures that can be drawn up, what recipes are chosen by first."""

    def axis(
        key: str, title: str, *, lower: bool, log: bool, low: float | None = None, high: float | None = None
    ) -> Any:
        return {"key": key, "title": title, "is_lower_better": lower, "is_log": log, "low": low, "high": high}

    axes = [axis("loss", summary.loss.axis_label, lower=True, log=True)]
    if summary.loss != KL_LOSS:
        axes.append(axis("kl_nats", KL_LOSS.axis_label, lower=True, log=True))
    if summary.has_labels:
        axes.append(axis("labelled_kl_nats", "KL on labelled images (nats)", lower=True, log=True))
        scale = make_scale(summary, "metric")
        metric = summary.metric
        axes.append(
            axis(
                "metric",
                metric.axis_label,
                lower=not metric.higher_is_better,
                log=scale.log,
                low=scale.low,
                high=scale.high,
            )
        )
    if summary.meaning.has_agreement:
        found = percent_scale([p.agreement_percent for p in summary.compared if p.agreement_percent is not None])
        title = "agreement with full precision (%)"
        axes.append(axis("agreement_percent", title, lower=False, log=False, low=found.low, high=found.high))
    axes.append(axis("sqnr_db", "SQNR of the output (dB)", lower=False, log=False))
    return axes


def _points(summary: RunSummary) -> dict[str, Any]:
    """All points column by column: numbers as they are in files, so that recipes can be put together from them."""
    points = summary.compared
    origins = list(dict.fromkeys(point.origin for point in points))
    names = ["bops", "group_bops", *(kind.field for kind in summary.costs_shown if kind.field != "bops"), *_LOSSES]
    if summary.loss != KL_LOSS:
        names.append("loss")
    columns = {name: [_literal(getattr(point, name)) for point in points] for name in names}
    encoder = RecipeEncoder(columns)
    encoded = [encoder.add(index, point) for index, point in enumerate(points)]
    return {
        "ids": [point.id for point in points],
        "labels": [point.label for point in points],
        "origins": origins,
        "origin_of": [origins.index(point.origin) for point in points],
        "feasible": _flags(points, "feasible"),
        "on_front": _flags(points, "on_front"),
        "columns": {name: ",".join(column) for name, column in {**columns, **encoder.columns}.items()},
        "form_of": [form for form, _ in encoded],
        "choices": [letters for _, letters in encoded],
        "forms": encoder.forms,
        "operands": encoder.operands,
        "options": encoder.options,
    }


def _literal(value: float | None) -> str:
    return "" if value is None else json.dumps(value)


def _flags(points: Sequence[Point], name: str) -> str:
    return "".join("1" if getattr(point, name) else "0" for point in points)


def _improved(found: Improved, summary: RunSummary) -> dict[str, Any]:
    names = ("kind", "kl_nats", "labelled_kl_nats", "loss", "agreement_percent", "sqnr_db", "metric")
    return {
        "id": found.point.id,
        "sentence": improvement(found, summary),
        **{name: getattr(found, name) for name in names},
    }


def _sensitivity(summary: RunSummary) -> dict[str, Any] | None:
    """The least loss of every operand alone at every width, in network order; None where it was not measured."""
    if summary.sensitivity is None:
        return None
    from autoq.report.sensitivity_map import best_cells  # needs the schemes, and torch with them

    cells = best_cells(summary.sensitivity)
    order = [(site.name, operand) for site in summary.sites for operand in site.operands]
    bits = sorted({width for mine in cells.values() for width in mine})
    rows = [
        {
            "site": site,
            "operand": operand,
            "losses": [cell.loss if (cell := cells[site, operand].get(width)) else None for width in bits],
        }
        for site, operand in order
        if (site, operand) in cells
    ]
    return {"bits": bits, "rows": rows, "note": sensitivity_note(summary.sensitivity)}
