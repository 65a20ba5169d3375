"""Recipes that were finished or reconstructed, on the picture."""

from __future__ import annotations

from pathlib import Path

import matplotlib.colors
import pytest
from matplotlib.text import Annotation

from autoq.report import draw_pareto
from autoq.report.improved_marks import GREEN
from autoq.report.plots import _make_figure
from autoq.report.scales import make_scale
from tests.report.pictures import has_color, pixels_of
from tests.report.synthetic import make_summary, with_improved


@pytest.mark.parametrize("labels", [True, False])
def test_reconstructed_recipes_have_a_marker_and_an_arrow(tmp_path: Path, labels: bool) -> None:
    plain = make_summary(trials=40, labels=labels)
    summary = with_improved(plain, kl_ratio=1e-4)
    draw_pareto(plain, tmp_path / "plain.png")
    assert not has_color(pixels_of(tmp_path / "plain.png"), GREEN)
    draw_pareto(summary, tmp_path / "pareto.png")
    assert has_color(pixels_of(tmp_path / "pareto.png"), GREEN)

    figure = _make_figure(summary)
    assert len(figure.axes) == 1 + labels
    for axes, measure in zip(figure.axes, ("loss", "metric"), strict=False):
        scale = make_scale(summary, measure)  # type: ignore[arg-type]
        arrows = [note for note in axes.texts if isinstance(note, Annotation) and note.get_text() == ""]
        shown = [found for found in summary.improved if not scale.is_below(found)]
        assert len(shown) >= 1
        for arrow, found in zip(arrows, shown, strict=True):
            assert arrow.xyann == (found.cost, scale.height(found.point))
            assert arrow.xy == (found.cost, getattr(found, measure))
            low, high = axes.get_ylim()
            assert low < arrow.xy[1] < high, "its axis reaches that far"


def test_finished_ones_are_hollow() -> None:
    summary = with_improved(with_improved(make_summary(), 0.5, "finished"))
    axes = _make_figure(summary).axes[0]
    green, white = matplotlib.colors.to_rgba(GREEN), matplotlib.colors.to_rgba("white")
    drawn = [(c.get_label(), tuple(c.get_facecolor()[0])) for c in axes.collections if len(c.get_edgecolor())]
    colors = {label: face for label, face in drawn if label in ("finished", "reconstructed")}
    assert colors == {"finished": white, "reconstructed": green}


def test_a_reconstructed_recipe_below_the_axis_is_a_triangle() -> None:
    summary = with_improved(make_summary())
    scale = make_scale(summary, "metric")
    assert [scale.is_below(found) for found in summary.improved] == [True, False]
    axes = _make_figure(summary).axes[1]
    colors = {matplotlib.colors.to_rgba(GREEN)}
    marks = [
        c for c in axes.collections if {tuple(face) for face in c.get_facecolor()} == colors and len(c.get_offsets())
    ]
    assert [len(mark.get_paths()[0].vertices) for mark in marks] == [4, 5], "a closed triangle, a closed square"
    assert len([note for note in axes.texts if isinstance(note, Annotation) and not note.get_text()]) == 1
