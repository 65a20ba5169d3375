"""The interactive page of a run, from which a recipe of the front is chosen: one file that loads nothing."""

from __future__ import annotations

import html
import json
import math
import re
from collections.abc import Mapping
from dataclasses import asdict
from importlib import resources
from typing import Any, get_args

from autoq.cost.kinds import BOPS, KINDS
from autoq.recipe import OperandConfig
from autoq.report.points import Improved, Point
from autoq.report.scales import Quantity, make_scale
from autoq.report.summary import RunSummary
from autoq.report.words import headline, labelled_on, left_out, measured_on
from autoq.units import KL_LOSS, format_bops, format_digits, readable_budget

_HEADINGS = {"size": "Weights", "activations": "Activations", "latency": "Latency"}
_QUANTITIES: tuple[Quantity, ...] = get_args(Quantity)
_AGREEMENT = (
    "<dt>Agreement</dt><dd>Images for which the quantized model predicts what full precision predicts, whether or not "
    "it is right.</dd>"
)


def render_page(summary: RunSummary) -> str:
    """Render the page as HTML: text escaped, numbers and recipes as JSON, drawn by the script in ``page.html``."""
    parts = {
        "title": html.escape(f"{summary.model}: quantization search"),
        "headline": html.escape(headline(summary)),
        "measured_on": html.escape(_measured_on(summary)),
        "interrupted": _interrupted(summary),
        "hypervolume": html.escape(_hypervolume(summary)),
        "settings": _settings(summary),
        "metric": html.escape(summary.metric.title),
        "loss": html.escape(summary.loss.title),
        "cost": html.escape(summary.kind.title),
        "kl_images": "images that did not calibrate" if summary.scoring_images else "the calibration images",
        "divergence": html.escape(summary.meaning.divergence),
        "agreement": _AGREEMENT if summary.meaning.has_agreement else "",
        "element": html.escape(summary.meaning.element),
        "data": _embed(_page_data(summary)),
    }
    template = resources.files("autoq.report").joinpath("page.html").read_text(encoding="utf-8")
    # One pass over the template: what is filled in is never itself searched for places to fill.
    return re.sub(r"\{\{(\w+)\}\}", lambda place: parts[place[1]], template)


def _page_data(summary: RunSummary) -> dict[str, Any]:
    metric = summary.metric
    asked = f" ({summary.budget_text})" if readable_budget(summary.budget_text) else ""
    return {
        "directory": summary.directory,
        "budget": summary.budget,
        "budget_label": "" if summary.budget is None else f"{summary.kind.format(summary.budget)}{asked}",
        "cost": {"title": summary.kind.title, "axis": summary.kind.axis, "unit": summary.kind.unit},
        "other_costs": [
            {"title": _HEADINGS[kind.name], "key": kind.field, "unit": kind.unit}
            for kind in summary.costs_shown
            if kind != BOPS
        ],
        "best_id": summary.best_id,
        "baseline_id": summary.baseline.id if summary.baseline else None,
        "has_labels": summary.has_labels,
        "is_held_out": summary.scoring_images > 0,
        "has_agreement": summary.meaning.has_agreement,
        "metric": {
            "title": metric.title,
            "heading": metric.title[0].upper() + metric.title[1:],
            "axis": metric.axis_label,
            "is_percentage": metric.unit == "%",
        },
        "loss": {
            "title": summary.loss.title,
            "unit": summary.loss.unit,
            "axis": summary.loss.axis_label,
            "is_kl": summary.loss == KL_LOSS,
        },
        "full_precision_metric": summary.full_precision_metric,
        "scales": {quantity: asdict(make_scale(summary, quantity)) for quantity in _QUANTITIES},
        "points": [_point_data(point) for point in summary.compared],
        "sites": [asdict(site) for site in summary.sites],
        "improved": [_improved_data(found) for found in summary.improved],
    }


def _point_data(point: Point) -> dict[str, Any]:
    names = (
        *("id", "origin", "label", "cost", "bops", "group_bops", "weight_bytes", "activation_bytes", "latency_ns"),
        *("kl_nats", "agreement_percent", "sqnr_db"),
        "loss",
        *("calibration_kl_nats", "labelled_kl_nats", "metric", "feasible", "on_front"),
    )
    data = {name: getattr(point, name) for name in names} | {
        "uniform": point.is_uniform,
        "published": point.is_published,
        "recipe": point.recipe,
    }
    return data if point.recipe is None else data | {"log_bases": _log_bases(point.recipe["sites"])}


def _log_bases(sites: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, str]]:
    """Collect the bases of a recipe's logarithmic quantizers, as text, by site and operand."""
    from autoq.quantizers import quantizer_class

    texts: dict[str, dict[str, str]] = {}
    for site, operands in sites.items():
        for operand, document in operands.items():
            config = OperandConfig.model_validate(document)
            if base := quantizer_class(config.scheme).label(config).log_base:
                texts.setdefault(site, {})[operand] = base
    return texts


def _improved_data(found: Improved) -> dict[str, Any]:
    names = (
        "kind",
        "cost",
        "kl_nats",
        "loss",
        "agreement_percent",
        "sqnr_db",
        "metric",
        "iterations",
        "images",
        "recipe_path",
    )
    return {"id": found.point.id} | {name: getattr(found, name) for name in names}


def _embed(data: Mapping[str, Any]) -> str:
    """Write JSON that cannot end its ``<script>`` element, whatever names it has."""
    text = json.dumps(_finite(data), ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def _finite(value: Any) -> Any:
    """Return ``value`` with None in place of infinities and NaN, which JSON lacks."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value


def _measured_on(summary: RunSummary) -> str:
    text = f"{len(summary.points):,} recipes tried. {measured_on(summary)}"
    if summary.eval_data is None:
        return f"{text}; no labelled images, so no accuracy."
    text = f"{text}. {labelled_on(summary)}."
    return f"{text} {left_out(summary)}" if summary.accuracy_left_out else text


def _interrupted(summary: RunSummary) -> str:
    if not summary.interrupted:
        return ""
    return '<p class="warning">The run was interrupted; run the same command again to resume it.</p>'


def _hypervolume(summary: RunSummary) -> str:
    if summary.hypervolume is None:
        return ""
    reference = f" (reference point: {summary.hypervolume_reference})" if summary.hypervolume_reference else ""
    return f"Hypervolume of the front: {format_digits(summary.hypervolume, 4)}{reference}."


def _settings(summary: RunSummary) -> str:
    rows = {
        "model": summary.model,
        "MACs per image": format_bops(summary.macs).replace("BOPs", "MACs"),
        "full precision": format_bops(summary.full_precision_bops),
        **{
            f"budget of {KINDS[name].title}": f"{text} = {limit:,} {KINDS[name].unit}"
            for name, (text, limit) in summary.budgets.items()
        },
        "calibration": f"{summary.images:,} images of {summary.data}",
        "scored on": f"{summary.scoring_images:,} others of them" if summary.scoring_images else "the same images",
        **summary.settings,
    }
    return "".join(f"<dt>{html.escape(name)}</dt><dd>{html.escape(str(value))}</dd>" for name, value in rows.items())
