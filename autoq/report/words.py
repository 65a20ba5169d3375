"""Sentences that state the result of a run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from autoq.cost.kinds import KINDS, CostKind
from autoq.cost.limits import describe_amount
from autoq.report.points import Improved, Point
from autoq.report.scales import Quantity
from autoq.report.summary import RunSummary
from autoq.sensitivity.proxies import LOSS_NAMES
from autoq.units import LABELS_BY, format_digits, format_kl, readable_budget, readable_label

if TYPE_CHECKING:
    from autoq.sensitivity.table import SensitivityTable

_FEW_IMAGES = 64
"""Images below which chance decides between close recipes."""


def headline(summary: RunSummary) -> str:
    """Compare, in a sentence, the chosen recipe with the uniform one that the same budget buys."""
    within = " and ".join(_budget(KINDS[name], *budget) for name, budget in summary.budgets.items())
    best, baseline, loss = summary.best, summary.baseline, summary.loss
    if not summary.points:
        return f"No trial has completed yet; the budget is {within}."
    if best is None:
        kind, least = summary.kind, min(point.cost for point in summary.points)
        return (
            f"None of {_recipes(summary)} is within {within}; the cheapest costs {describe_amount(kind, least)}. "
            "Allow more, or a search space with fewer bits."
        )
    if baseline is None or best is baseline:
        lost = f"{loss.title} {loss.format(_judged(summary, best))}"
        rest = f"is the best of {_recipes(summary)}: {lost}{_accuracy(summary, best, None)}."
        return f"Within {within}, {readable_label(best.label)} {rest}"
    return (
        f"Within {within}, {readable_label(best.label)} has {loss.title} {loss.format(_judged(summary, best))} against "
        f"{format_kl(_judged(summary, baseline))} for {_named(summary, baseline)}{_accuracy(summary, best, baseline)}."
    )


def _budget(kind: CostKind, text: str, limit: int) -> str:
    asked = readable_budget(text)
    return f"{describe_amount(kind, limit)}{f' ({asked})' if asked else ''}"


def measured_on(summary: RunSummary) -> str:
    """State which images recipes were calibrated and scored on."""
    title = f"{summary.loss.title[0].upper()}{summary.loss.title[1:]}"
    calibrated = f"{summary.images:,} images of {summary.data}"
    if summary.is_judged:
        others = f"{summary.scoring_images:,} others" if summary.scoring_images else "the same"
        unseen = "labelled images that neither calibrated nor chose"
        return f"{title} over {unseen}; calibrated on {calibrated}, chosen on {others}"
    if summary.scoring_images:
        return f"{title} over {summary.scoring_images:,} images that did not calibrate; calibrated on {calibrated}"
    return f"{title} over the {calibrated} that calibrated, as there are too few others: on others it is larger"


def labelled_on(summary: RunSummary) -> str:
    """State which labelled images accuracy was measured on, and how their labels were matched with outputs."""
    metric, count = summary.metric.title, f"{summary.eval_images:,} " if summary.eval_images else ""
    matched = "" if summary.labels_by is None else f", matched with outputs {LABELS_BY[summary.labels_by]}"
    return f"{sentence(metric)} over {count}labelled images of {summary.eval_data}{matched}"


def left_out(summary: RunSummary) -> str:
    """State how many recipes were not measured on labelled images."""
    count = summary.accuracy_left_out
    recipes = "1 recipe" if count == 1 else f"{count:,} recipes"
    return f"The time limit left none to measure {summary.metric.title} of {recipes}; the same search with more does."


def warnings(summary: RunSummary) -> list[str]:
    """State what makes the figures of a run worth less than they look."""
    found = []
    if summary.interrupted:
        found.append("The run was interrupted; run the same command again to resume it.")
    if summary.random_weights:
        found.append("The model has random weights: figures of a trained one are others.")
    few = min(summary.images, summary.scoring_images or summary.images)
    if few < _FEW_IMAGES:
        found.append(f"{few:,} images are few: differences between recipes that are close may be chance.")
    if summary.eval_data is None:
        found.append("Accuracy was not measured, as no labelled images were given: --eval-data names some.")
    elif unmeasured := sum(point.metric is None for point in summary.points):
        measured = len(summary.points) - unmeasured
        metric = summary.metric.title
        found.append(f"{sentence(metric)} was measured for {measured:,} of {_recipes(summary)}.")
    return found


def sensitivity_note(table: SensitivityTable) -> str:
    """State what a table of sensitivities has."""
    images = f"{table.images:,} image{'' if table.images == 1 else 's'}"
    return (
        f"{LOSS_NAMES.get(table.proxy, table.proxy)} of each operand quantized alone, in the best scheme of each "
        f"width, mean over {images}. A block's is the sum of its operands'. Outlined: the bits of the chosen recipe."
    )


def improvement(found: Improved, summary: RunSummary) -> str:
    """Compare, in a sentence, a recipe as searched with what was made of it, by loss and the task's main metric."""
    before, accuracy, metric, loss = found.point, "", summary.metric, summary.loss
    losses = (before.loss, found.loss)
    if summary.is_judged and before.labelled_kl_nats is not None and found.labelled_kl_nats is not None:
        losses = (before.labelled_kl_nats, found.labelled_kl_nats)
    if found.metric is not None:
        earlier = "" if before.metric is None else f"{metric.format_number(before.metric)} -> "
        accuracy = f"; {metric.title} {earlier}{metric.format(found.metric)}"
    return (
        f"{found.kind.capitalize()}, {readable_label(before.label)} has {loss.title} {format_kl(losses[0])} -> "
        f"{loss.format(losses[1])}{accuracy}."
    )


def note(summary: RunSummary, best: Point, quantity: Quantity) -> str:
    """State the chosen recipe in one quantity, and its gain over the uniform one, for a corner of a picture."""
    baseline = summary.baseline if best is not summary.baseline else None
    lines, found, metric = [readable_label(best.label)], summary.improved_from(best), summary.metric
    loss = summary.loss
    if quantity == "loss":
        lines.append(f"{loss.title} {loss.format(best.loss)} at {summary.kind.format(best.cost)}")
        if baseline:
            lines.append(_ratio(best, baseline))
        lines += [f"{each.kind}: {loss.format(each.loss)}" for each in found]
    elif best.metric is not None:
        lines.append(f"{metric.title} {metric.format(best.metric)} at {summary.kind.format(best.cost)}")
        if baseline and baseline.metric is not None:
            gain = best.metric - baseline.metric
            side = "above" if gain >= 0 else "below"
            lines.append(f"{metric.format_difference(abs(gain))} {side} {readable_label(baseline.label)}")
        lines += [f"{each.kind}: {metric.format(each.metric)}" for each in found if each.metric is not None]
    return "\n".join(lines)


def _judged(summary: RunSummary, point: Point) -> float:
    """Return what a point is judged by: its discrepancy on labelled images, where that is known, or its loss."""
    known = point.labelled_kl_nats
    return known if summary.is_judged and known is not None else point.loss


def _named(summary: RunSummary, baseline: Point) -> str:
    """Name a baseline, with its cost where that is beyond the budget."""
    cost = "" if baseline.feasible else f" at {summary.kind.format(baseline.cost)}"
    of = f", the best of {len(summary.published) + 1} baselines" if summary.published else ""
    return f"{readable_label(baseline.label)}{cost}{of}"


def _ratio(best: Point, baseline: Point) -> str:
    against = readable_label(baseline.label)
    if best.loss <= 0 or baseline.loss <= 0:
        return f"against {format_kl(baseline.loss)} for {against}"
    ratio = best.loss / baseline.loss
    if ratio <= 0.5:
        return f"{format_digits(1 / ratio, 2)}× less than {against}"
    return f"{abs(1 - ratio):.0%} {'less' if ratio < 1 else 'more'} than {against}".replace("%", " %")


def _accuracy(summary: RunSummary, best: Point, baseline: Point | None) -> str:
    metric = summary.metric
    if best.metric is None:
        return ""
    parts = [f"; {metric.title} {metric.format(best.metric)}"]
    if baseline and baseline.metric is not None:
        parts.append(f" against {metric.format(baseline.metric)}")
    if summary.full_precision_metric is not None:
        parts.append(f", full precision {metric.format(summary.full_precision_metric)}")
    return "".join(parts)


def _recipes(summary: RunSummary) -> str:
    count = len(summary.points)
    return f"{count:,} recipe{'' if count == 1 else 's'}"


def sentence(start: str) -> str:
    """Begin a sentence with a capital, but for names such as mIoU.

    >>> sentence("box AP was measured"), sentence("mIoU was measured")
    ('Box AP was measured', 'mIoU was measured')
    """
    return start if any(letter.isupper() for letter in start.partition(" ")[0]) else start[0].upper() + start[1:]
