"""What ``autoq search`` prints when it is done."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from autoq.cli.options import print_json, say

if TYPE_CHECKING:
    from autoq.api.result import SearchResult
    from autoq.report.points import Point
    from autoq.runs.search.result import ImprovedPoint


def show_found(found: SearchResult, out: Path, as_json: bool) -> None:
    """Print the result of a search, as sentences and paths or as one JSON object."""
    summary, result = found.summary, found.outcome
    if as_json:
        print_json(
            {
                "out": result.out,
                "front": [vars(point) for point in result.front],
                "best": result.best,
                "budget_bops": result.budget_bops,
                "budgets": dict(result.budgets),
                "baselines": [_baseline_json(point) for point in (*summary.uniform, *summary.published)],
                "finished": [_improved_json(point, summary.metric.name) for point in result.finished],
                "reconstructed": [_improved_json(point, summary.metric.name) for point in result.reconstructed],
            }
        )
        return
    from autoq.report.words import headline, improvement, labelled_on, left_out, measured_on

    say(headline(summary))
    say(f"{measured_on(summary)}.")
    if summary.eval_data is not None:
        say(f"{labelled_on(summary)}.")
    if summary.accuracy_left_out:
        say(left_out(summary))
    for improved in summary.improved:
        say(improvement(improved, summary))
    typer.echo(f"page:   {out / 'report.html'}")
    if result.best is not None:
        typer.echo(f"recipe: {out / 'recipes' / f'{result.best}.json'}")
    for kind, points in (("finished", result.finished), ("reconstructed", result.reconstructed)):
        for point in points:
            typer.echo(f"{kind}: {point.recipe}")


def _baseline_json(point: Point) -> dict[str, Any]:
    names = (
        *("id", "bops", "weight_bytes", "activation_bytes", "latency_ns"),
        *("kl_nats", "calibration_kl_nats"),
    )
    return {name: getattr(point, name) for name in names}


def _improved_json(point: ImprovedPoint, metric: str) -> dict[str, Any]:
    document = {**vars(point), metric: point.metrics.get(metric)}
    del document["metrics"]
    return document
