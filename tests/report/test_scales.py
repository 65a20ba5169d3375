"""Which part of the numbers an axis shows."""

from __future__ import annotations

from dataclasses import replace

import pytest

from autoq.report import RunSummary
from autoq.report.scales import is_wide, make_scale
from tests.report.synthetic import as_dense, make_summary


def test_a_collapsed_model_does_not_flatten_the_accuracy_axis() -> None:
    summary = make_summary(seed=1)
    scale = make_scale(summary, "metric")
    worst = summary.uniform[0]
    assert worst.metric is not None
    assert scale.is_below(worst)
    assert scale.height(worst) == scale.low > worst.metric


def test_errors_have_a_scale_without_a_floor(summary: RunSummary) -> None:
    run = as_dense(summary)
    values = [point.metric for point in run.points if point.metric is not None]
    scale = make_scale(run, "metric")
    assert (scale.low, scale.high) == (min(values), max(values))
    assert not any(scale.is_below(point) for point in run.points)
    alone = replace(run, points=(replace(run.points[0], metric=0.02),), best_id=None)
    assert make_scale(alone, "metric").high > make_scale(alone, "metric").low
    nothing = replace(run, points=(replace(run.points[0], metric=None),), best_id=None, full_precision_metric=None)
    assert make_scale(nothing, "metric").high == 1.0


def test_zero_lies_below_all_others_on_a_logarithmic_axis(summary: RunSummary) -> None:
    scale = make_scale(summary, "loss")
    values = [point.kl_nats for point in summary.points]
    assert (scale.low, scale.high, scale.log) == (min(values), max(values), True)
    lossless = replace(summary.points[-1], kl_nats=0.0)
    scale = make_scale(replace(summary, points=(*summary.points[:-1], lossless)), "loss")
    assert scale.is_below(lossless)
    assert scale.height(lossless) == scale.low < min(values)
    nothing_lost = replace(summary, points=(lossless,), best_id=None)
    assert not make_scale(nothing_lost, "loss").log


def test_what_was_not_measured_has_no_place(summary: RunSummary) -> None:
    unmeasured = replace(summary.points[0], metric=None)
    scale = make_scale(summary, "metric")
    assert scale.value(unmeasured) is scale.height(unmeasured) is None
    assert not scale.is_below(unmeasured)


@pytest.mark.parametrize(("values", "wide"), [((1.0, 5.0), False), ((1.0, 5.1), True), ((2.0,), False)])
def test_wide_values_need_a_logarithm(values: tuple[float, ...], wide: bool) -> None:
    assert is_wide(values) is wide
