"""What a run found, in sentences."""

from __future__ import annotations

from dataclasses import replace

from autoq.report import RunSummary
from autoq.report.words import headline, improvement, left_out, measured_on, note, sentence
from autoq.units import format_bops, format_kl
from tests.report.synthetic import as_dense, with_budget, with_improved, with_points, with_published


def test_headline_sets_the_chosen_recipe_against_uniform(summary: RunSummary) -> None:
    best, baseline = summary.best, summary.baseline
    assert best is not None
    assert baseline is not None
    known = replace(best, kl_nats=0.0312, metric=96.8)
    uniform = replace(baseline, kl_nats=0.12, metric=94.1)
    run = with_budget(replace(summary, points=(uniform, known)), 93_100_000 * 10)
    assert headline(run) == (
        f"Within 931 M BOPs (the cost of uniform 4/4), {best.label} has KL 0.031 nats against 0.12 for uniform 4/4; "
        "top-1 96.8 % against 94.1 %, full precision 97.9 %."
    )
    assert note(run, known, "loss").endswith("3.8× less than uniform 4/4")
    assert note(run, known, "metric").endswith("2.7 points above uniform 4/4")


def test_what_labelled_images_say_comes_first(summary: RunSummary) -> None:
    """They chose no recipe, as the images that score did."""
    run = with_improved(summary)
    best, baseline = run.best, run.baseline
    assert best is not None
    assert baseline is not None
    told = {best.id: 0.05, baseline.id: 0.2}
    points = tuple(replace(point, labelled_kl_nats=told.get(point.id)) for point in run.points)
    judged = replace(run, points=points)
    assert judged.is_judged
    assert "has KL 0.050 nats against 0.20 for " in headline(judged)
    assert "KL over labelled images that neither calibrated nor chose; calibrated on" in measured_on(judged)
    assert judged.best is not None
    found = replace(run.improved[-1], point=judged.best, labelled_kl_nats=0.04)
    assert "has KL 0.050 -> 0.040 nats" in improvement(found, judged)
    assert f"has KL {format_kl(best.kl_nats)} -> " in improvement(replace(found, labelled_kl_nats=None), judged)
    half = replace(
        run, points=tuple(replace(point, labelled_kl_nats=None if point.id == best.id else 0.1) for point in points)
    )
    assert not half.is_judged
    assert headline(half) == headline(run)


def test_headline_names_the_best_baseline_and_what_it_costs(summary: RunSummary) -> None:
    run = with_published(summary)
    best, baseline = run.best, run.baseline
    assert best is not None
    assert baseline is not None
    cost = format_bops(baseline.bops)
    assert f" for igq-vit 4/4 at {cost}, the best of 3 baselines; top-1 " in headline(run)
    assert note(run, best, "loss").endswith("less than igq-vit 4/4")
    dear = replace(run, published=run.published[:1])
    assert " for repq-vit 4/4, the best of 2 baselines; top-1 " in headline(dear), "within the budget"


def test_headline_says_so_when_search_won_nothing(summary: RunSummary) -> None:
    alone = replace(with_points(summary, lambda point: point.id == "w4a4"), best_id="w4a4")
    assert "uniform 4/4 is the best of 1 recipe:" in headline(alone)
    assert headline(with_points(summary, lambda _: False)).startswith("No trial has completed yet")
    over = with_points(summary, lambda point: not point.feasible)
    assert "the cheapest costs" in headline(over)


def test_what_was_improved_in_words(summary: RunSummary) -> None:
    run = with_improved(with_improved(summary, 0.5, "finished"))
    best, found = run.best, run.improved[-1]
    assert best is not None
    assert [each.kind for each in run.improved_from(best)] == ["finished", "reconstructed"]
    assert run.improved_from(best)[-1] is found
    assert run.improved_from(summary.uniform[-1]) == []
    known = replace(found, point=replace(best, label="w3a3", kl_nats=0.0312, metric=90.0), kl_nats=0.011)
    assert improvement(replace(known, metric=94.5), run) == (
        "Reconstructed, uniform 3/3 has KL 0.031 -> 0.011 nats; top-1 90.0 -> 94.5 %."
    )
    unmeasured = replace(known, point=replace(known.point, metric=None))
    assert improvement(replace(unmeasured, metric=94.5), run).endswith("nats; top-1 94.5 %.")
    assert improvement(replace(unmeasured, metric=None), run).endswith("0.011 nats.")
    assert improvement(replace(known, kind="finished"), run).startswith("Finished, uniform 3/3 has KL 0.031 -> 0.011")
    assert [line.partition(" ")[0] for line in note(run, best, "loss").splitlines()[-2:]] == [
        "finished:",
        "reconstructed:",
    ]
    assert note(run, best, "metric").splitlines()[-1] == f"reconstructed: {found.metric:.1f} %"
    assert headline(run) == headline(summary), "what the search found"


def test_a_worse_recipe_is_not_praised(summary: RunSummary) -> None:
    assert summary.best is not None
    assert summary.baseline is not None
    worse = replace(summary.best, kl_nats=2 * summary.baseline.kl_nats, metric=50.0)
    run = replace(summary, points=(summary.baseline, worse))
    assert note(run, worse, "loss").endswith("100 % more than uniform 4/4")
    assert note(run, worse, "metric").endswith("points below uniform 4/4")


def test_other_metrics_are_told_in_their_own_unit(summary: RunSummary) -> None:
    run = as_dense(with_improved(summary))
    best, baseline = run.best, run.baseline
    assert best is not None
    assert baseline is not None
    known, uniform = replace(best, metric=0.0432), replace(baseline, metric=0.0561)
    told = replace(run, points=(uniform, known))
    assert headline(told).endswith("; RMSE 0.0432 against 0.0561, full precision 0.02.")
    assert note(told, known, "metric").splitlines()[1:3] == [
        f"RMSE 0.0432 at {format_bops(known.bops)}",
        "0.0129 below uniform 4/4",
    ]
    found = replace(run.improved[0], point=known, metric=0.04)
    assert improvement(found, run).endswith(" nats; RMSE 0.0432 -> 0.04.")


def test_which_images_were_scored_on(summary: RunSummary) -> None:
    told = measured_on(summary)
    assert told.startswith("KL over the 128 images of digits that calibrated, as there are too few others")
    held_out = replace(summary, scoring_images=96)
    assert measured_on(held_out) == "KL over 96 images that did not calibrate; calibrated on 128 images of digits"


def test_what_the_time_limit_left_out(summary: RunSummary) -> None:
    assert " top-1 of 1 recipe; " in left_out(replace(summary, accuracy_left_out=1))
    assert " top-1 of 12 recipes; " in left_out(replace(summary, accuracy_left_out=12))


def test_names_keep_their_capitals_at_the_beginning_of_a_sentence() -> None:
    assert [sentence(each) for each in ("box AP", "mIoU", "top-1")] == ["Box AP", "mIoU", "Top-1"]
