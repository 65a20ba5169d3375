"""The words of the page that no script writes: what was measured, warnings, settings."""

from __future__ import annotations

import html

from autoq.cost.kinds import KINDS
from autoq.report.summary import RunSummary
from autoq.report.words import labelled_on, left_out, measured_on, warnings
from autoq.units import format_bops, format_digits

_AGREEMENT = (
    "<dt>Agreement</dt><dd>Images for which the quantized model predicts what full precision predicts, whether or not "
    "it is right.</dd>"
)


def filled_sections(summary: RunSummary) -> dict[str, str]:
    """Return what fills the template's places, by their names, as HTML."""
    return {
        "measured_on": html.escape(_measured_on(summary)),
        "warnings": _warnings(summary),
        "hypervolume": html.escape(_hypervolume(summary)),
        "settings": _settings(summary),
        "loss": html.escape(summary.loss.title),
        "cost": html.escape(summary.kind.title),
        "kl_images": "images that did not calibrate" if summary.scoring_images else "the calibration images",
        "divergence": html.escape(summary.meaning.divergence),
        "agreement": _AGREEMENT if summary.meaning.has_agreement else "",
        "element": html.escape(summary.meaning.element),
    }


def _measured_on(summary: RunSummary) -> str:
    text = f"{len(summary.points):,} recipes tried. {measured_on(summary)}"
    if summary.eval_data is None:
        return f"{text}; no labelled images, so no accuracy."
    text = f"{text}. {labelled_on(summary)}."
    return f"{text} {left_out(summary)}" if summary.accuracy_left_out else text


def _warnings(summary: RunSummary) -> str:
    found = "".join(f"<li>{html.escape(sentence)}</li>" for sentence in warnings(summary))
    return f'<ul class="warnings" aria-label="Warnings">{found}</ul>' if found else ""


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
