"""The picture of the front."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from autoq.report import RunSummary, draw_pareto
from autoq.report.figures import DPI
from tests.report.pictures import has_color, pixels_of
from tests.report.synthetic import make_summary, with_improved, with_points


@pytest.mark.parametrize(("labels", "width"), [(True, 12.4), (False, 7.6)])
def test_accuracy_gets_a_second_panel(tmp_path: Path, labels: bool, width: float) -> None:
    draw_pareto(make_summary(trials=40, labels=labels), tmp_path / "pareto.png")
    pixels = pixels_of(tmp_path / "pareto.png")
    assert pixels.shape == (round(5.4 * DPI), round(width * DPI), 3)
    assert all(has_color(pixels, color) for color in ("#0072b2", "#d55e00", "#f0e442"))
    assert [path.name for path in tmp_path.iterdir()] == ["pareto.png"]


def _zeros(summary: RunSummary) -> RunSummary:
    return replace(summary, points=tuple(replace(p, kl_nats=0.0) if p.bops > 1e9 else p for p in summary.points))


def _all_zero(summary: RunSummary) -> RunSummary:
    return replace(summary, points=tuple(replace(point, kl_nats=0.0) for point in summary.points))


def _only_w4a4(summary: RunSummary) -> RunSummary:
    return replace(with_points(summary, lambda point: point.id == "w4a4"), best_id="w4a4")


def _unmeasured_best(summary: RunSummary) -> RunSummary:
    points = (replace(p, metric=None) if p.id == summary.best_id else p for p in summary.points)
    return replace(summary, points=tuple(points), full_precision_metric=None)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda summary: with_points(summary, lambda _: False),
        _only_w4a4,
        lambda summary: with_points(summary, lambda point: not point.feasible),
        lambda summary: with_points(summary, lambda point: not point.is_uniform),
        _zeros,
        _all_zero,
        _unmeasured_best,
        lambda summary: replace(summary, budgets={"bops": ("1P", 10**15)}),
        lambda summary: with_improved(summary, kl_ratio=0.0),
        lambda summary: with_improved(_unmeasured_best(summary)),
        lambda summary: replace(summary, model="$\\nosuch{$ model", data="100%$"),
    ],
    ids=[
        "none",
        "one",
        "over",
        "no-uniform",
        "zeros",
        "all-zero",
        "unmeasured",
        "far-budget",
        "no-loss",
        "unmeasured-reconstructed",
        "mathtext",
    ],
)
def test_degenerate_runs_can_be_drawn(summary: RunSummary, tmp_path: Path, spoil: object) -> None:
    assert callable(spoil)
    draw_pareto(spoil(summary), tmp_path / "pareto.png")
    assert pixels_of(tmp_path / "pareto.png").std() > 3
