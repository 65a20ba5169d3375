"""The figures of a run, checked as they come in."""

import math
import subprocess
import sys
from dataclasses import replace

import pytest

from autoq.report import RunSummary
from tests.report.synthetic import with_budget, with_published


def test_the_baseline_is_the_best_uniform_point_within_the_budget(summary: RunSummary) -> None:
    limit = summary.budget
    assert limit is not None
    assert summary.baseline is not None
    assert summary.baseline.id == "w4a4"
    tighter = with_budget(summary, limit - 1)
    assert tighter.baseline is tighter.uniform[1]
    assert with_budget(summary, 1).baseline is None


def test_the_baseline_is_the_best_of_the_same_width(summary: RunSummary) -> None:
    assert summary.budget is not None
    named = replace(with_budget(summary, summary.budget - 1), baseline_bits=(4, 4))
    assert named.baseline is not None
    assert named.baseline.id == "w4a4", "though the image at 8 bits costs a little more than the budget"
    assert replace(summary, baseline_bits=(5, 4)).baseline is summary.baseline, "the space has no such point"
    run = with_published(summary)
    assert run.baseline is not None
    assert run.baseline.label == "igq-vit 4/4"
    worse = tuple(replace(point, kl_nats=9.0) for point in run.published)
    assert replace(run, published=worse).baseline is summary.baseline
    with pytest.raises(ValueError, match="repq-vit-w4a4"):
        replace(run, published=(*run.published, run.published[0]))


@pytest.mark.parametrize("change", [{"kl_nats": math.nan}, {"kl_nats": math.inf}, {"bops": 0}])
def test_failed_trials_are_refused_by_name(summary: RunSummary, change: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="'w2a2'"):
        replace(summary, points=(replace(summary.points[0], **change),), best_id=None)  # type: ignore[arg-type]


def test_repeated_and_unknown_ids_are_refused(summary: RunSummary) -> None:
    with pytest.raises(ValueError, match="w2a2"):
        replace(summary, points=(summary.points[0], *summary.points))
    with pytest.raises(ValueError, match="trial-9999"):
        replace(summary, best_id="trial-9999")


def test_importing_the_report_stays_light() -> None:
    code = "import sys, autoq.report; print(*{'torch', 'optuna', 'timm', 'matplotlib', 'pandas'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
