from dataclasses import replace
from pathlib import Path

import matplotlib.colors
import numpy as np
import pytest
from matplotlib.text import Annotation
from PIL import Image

from autoq.report import RunSummary, draw_pareto
from autoq.report.plots import DPI, _make_figure
from autoq.report.reconstructed_marks import GREEN
from autoq.report.scales import make_scale
from tests.report.synthetic import make_summary, with_points, with_reconstructed


def _pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def _has_color(pixels: np.ndarray, color: str) -> bool:
    wanted = [int(color[start : start + 2], 16) for start in (1, 3, 5)]
    return bool((np.abs(pixels.astype(int) - wanted).max(axis=2) <= 2).any())


@pytest.mark.parametrize(("labels", "width"), [(True, 12.4), (False, 7.6)])
def test_accuracy_gets_a_second_panel(tmp_path: Path, labels: bool, width: float) -> None:
    draw_pareto(make_summary(trials=40, labels=labels), tmp_path / "pareto.png")
    pixels = _pixels(tmp_path / "pareto.png")
    assert pixels.shape == (round(5.4 * DPI), round(width * DPI), 3)
    assert all(_has_color(pixels, color) for color in ("#0072b2", "#d55e00", "#f0e442"))
    assert [path.name for path in tmp_path.iterdir()] == ["pareto.png"]


@pytest.mark.parametrize("labels", [True, False])
def test_reconstructed_recipes_have_a_marker_and_an_arrow(tmp_path: Path, labels: bool) -> None:
    plain = make_summary(trials=40, labels=labels)
    summary = with_reconstructed(plain, kl_ratio=1e-4)
    draw_pareto(plain, tmp_path / "plain.png")
    assert not _has_color(_pixels(tmp_path / "plain.png"), GREEN)
    draw_pareto(summary, tmp_path / "pareto.png")
    assert _has_color(_pixels(tmp_path / "pareto.png"), GREEN)

    figure = _make_figure(summary)
    assert len(figure.axes) == 1 + labels
    for axes, measure in zip(figure.axes, ("kl_nats", "metric"), strict=False):
        scale = make_scale(summary, measure)  # type: ignore[arg-type]
        arrows = [note for note in axes.texts if isinstance(note, Annotation) and note.get_text() == ""]
        shown = [found for found in summary.reconstructed if not scale.is_below(found)]
        assert len(shown) >= 1
        for arrow, found in zip(arrows, shown, strict=True):
            assert arrow.xyann == (found.bops, scale.height(found.point))
            assert arrow.xy == (found.bops, getattr(found, measure))
            low, high = axes.get_ylim()
            assert low < arrow.xy[1] < high, "its axis reaches that far"


def test_a_reconstructed_recipe_below_the_axis_is_a_triangle() -> None:
    summary = with_reconstructed(make_summary())
    scale = make_scale(summary, "metric")
    assert [scale.is_below(found) for found in summary.reconstructed] == [True, False]
    axes = _make_figure(summary).axes[1]
    colors = {matplotlib.colors.to_rgba(GREEN)}
    marks = [
        c for c in axes.collections if {tuple(face) for face in c.get_facecolor()} == colors and len(c.get_offsets())
    ]
    assert [len(mark.get_paths()[0].vertices) for mark in marks] == [4, 5], "a closed triangle, a closed square"
    assert len([note for note in axes.texts if isinstance(note, Annotation) and not note.get_text()]) == 1


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
        lambda summary: replace(summary, budget_bops=10**15, budget_text="1P"),
        lambda summary: with_reconstructed(summary, kl_ratio=0.0),
        lambda summary: with_reconstructed(_unmeasured_best(summary)),
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
    assert _pixels(tmp_path / "pareto.png").std() > 3
