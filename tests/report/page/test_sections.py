"""The words of the page."""

from __future__ import annotations

from dataclasses import replace

from autoq.report import RunSummary
from autoq.report.page.sections import filled_sections


def test_warnings_are_listed_and_escaped(summary: RunSummary) -> None:
    found = filled_sections(replace(summary, interrupted=True, eval_data=None))["warnings"]
    assert "<li>The run was interrupted;" in found
    assert "Accuracy was not measured" in found
    calm = replace(summary, scoring_images=96, points=tuple(replace(p, metric=90.0) for p in summary.points))
    assert filled_sections(calm)["warnings"] == ""


def test_settings_are_escaped(summary: RunSummary) -> None:
    assert (
        "<dt>&lt;b&gt;</dt><dd>&lt;i&gt;</dd>" in filled_sections(replace(summary, settings={"<b>": "<i>"}))["settings"]
    )
