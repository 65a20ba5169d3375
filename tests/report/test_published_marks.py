"""Published methods on the picture."""

from __future__ import annotations

from pathlib import Path

import matplotlib.colors

from autoq.report import draw_pareto
from autoq.report.plots import _make_figure
from autoq.report.published_marks import PURPLE
from tests.report.pictures import has_color, pixels_of
from tests.report.synthetic import make_summary, with_published


def test_published_methods_have_a_marker_and_a_name(tmp_path: Path) -> None:
    plain = make_summary(trials=40)
    summary = with_published(plain)
    draw_pareto(plain, tmp_path / "plain.png")
    assert not has_color(pixels_of(tmp_path / "plain.png"), PURPLE)
    draw_pareto(summary, tmp_path / "pareto.png")
    assert has_color(pixels_of(tmp_path / "pareto.png"), PURPLE)
    color = matplotlib.colors.to_rgba(PURPLE)
    for axes, measure in zip(_make_figure(summary).axes, ("loss", "metric"), strict=True):
        drawn = [c for c in axes.collections if tuple(c.get_facecolor()[0]) == color and len(c.get_offsets())]
        places = [tuple(mark.get_offsets()[0]) for mark in drawn]
        assert places == [(point.bops, getattr(point, measure)) for point in summary.published]
        names = [text.get_text() for text in axes.texts if text.get_color() == PURPLE]
        assert names == ["repq-vit 4/4", "igq-vit 4/4"]
        low, high = axes.get_xlim()
        assert all(low < x < high for x, _ in places), "its axis reaches that far"
