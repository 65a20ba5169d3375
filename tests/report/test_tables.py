import csv
import io
import math
from dataclasses import replace

import pandas as pd
import pytest

from autoq.report import RunSummary, improved_csv, pareto_csv, trials_csv
from autoq.report.tables import baselines_csv
from tests.report.synthetic import as_dense, with_improved, with_points, with_published


def test_trials_round_trip_exactly(summary: RunSummary) -> None:
    frame = pd.read_csv(io.StringIO(trials_csv(summary)))
    assert list(frame.columns) == [
        *("id", "label", "origin", "bops", "group_bops", "weight_layers_only_bops", "weight_bytes", "kl_nats"),
        *(
            "calibration_kl_nats",
            "labelled_kl_nats",
            "agreement_percent",
            "sqnr_db",
            "top1_percent",
            "feasible",
            "on_front",
        ),
    ]
    assert len(frame) == len(summary.points)
    for column in ("id", "bops", "feasible", "on_front"):
        assert frame[column].tolist() == [getattr(point, column) for point in summary.points]
    rows = list(csv.DictReader(io.StringIO(trials_csv(summary))))
    assert [float(row["kl_nats"]) for row in rows] == [point.kl_nats for point in summary.points]
    assert frame["sqnr_db"].tolist() == pytest.approx([point.sqnr_db for point in summary.points], rel=1e-12)
    unmeasured = [point.metric is None for point in summary.points]
    assert any(unmeasured)
    assert frame["top1_percent"].isna().tolist() == unmeasured


def test_pareto_lists_the_front_by_cost_with_its_recipes(summary: RunSummary) -> None:
    frame = pd.read_csv(io.StringIO(pareto_csv(summary)))
    assert frame["bops"].is_monotonic_increasing
    assert frame["kl_nats"].is_monotonic_decreasing
    assert frame["id"].tolist() == [point.id for point in summary.front]
    assert frame["recipe_path"].tolist() == [f"recipes/{point.id}.json" for point in summary.front]


def test_baselines_are_uniform_points_and_published_methods(summary: RunSummary) -> None:
    run = with_published(summary)
    assert (trials_csv(run), pareto_csv(run)) == (trials_csv(summary), pareto_csv(summary)), "they are no trials"
    frame = pd.read_csv(io.StringIO(baselines_csv(run)), index_col="id")
    assert frame["bops"].is_monotonic_increasing
    assert set(frame.index) == {point.id for point in (*run.uniform, *run.published)}
    assert frame.loc["igq-vit-w4a4", "recipe_path"] == "baselines/igq-vit-w4a4/recipe.json"
    assert frame.loc["igq-vit-w4a4", "origin"] == "published"


def test_improved_recipes_have_a_table_of_their_own(summary: RunSummary) -> None:
    run = with_improved(with_improved(summary, kind="finished"))
    assert pareto_csv(run) == pareto_csv(summary), "the front is as searched"
    assert trials_csv(run) == trials_csv(summary)
    frame = pd.read_csv(io.StringIO(improved_csv(run)))
    assert frame["id"].tolist() == [found.point.id for found in run.improved]
    assert frame["iterations"].isna().tolist() == [found.kind == "finished" for found in run.improved]
    assert frame["bops"].tolist() == [found.point.bops for found in run.improved]
    for column in ("kind", "images", "recipe_path"):
        assert frame[column].tolist() == [getattr(found, column) for found in run.improved]
    for column, name in (("kl_nats", "kl_nats"), ("agreement_percent",) * 2, ("top1_percent", "metric")):
        assert frame[column].tolist() == pytest.approx([getattr(found, name) for found in run.improved])
        assert frame[f"{column}_before"].tolist() == pytest.approx(
            [getattr(found.point, name) for found in run.improved]
        )


def test_the_metric_has_the_name_that_its_task_gives_it(summary: RunSummary) -> None:
    run = as_dense(with_improved(summary))
    trials, found = (pd.read_csv(io.StringIO(table(run))) for table in (trials_csv, improved_csv))
    assert trials["rmse"].dropna().tolist() == [p.metric for p in run.points if p.metric is not None]
    assert trials["agreement_percent"].isna().all()
    assert found["rmse_before"].tolist() == [each.point.metric for each in run.improved]
    assert not any("top1" in column for column in (*trials.columns, *found.columns))


def test_a_run_without_trials_has_headers_only(summary: RunSummary) -> None:
    empty = with_points(summary, lambda _: False)
    assert trials_csv(empty).count("\n") == 1
    assert pd.read_csv(io.StringIO(pareto_csv(empty))).empty


def test_infinite_sqnr_reads_back_infinite(summary: RunSummary) -> None:
    perfect = replace(summary, points=(replace(summary.points[0], kl_nats=0.0, sqnr_db=math.inf),), best_id=None)
    assert pd.read_csv(io.StringIO(trials_csv(perfect)))["sqnr_db"].tolist() == [math.inf]


def test_names_with_commas_and_quotes_stay_in_their_cell(summary: RunSummary) -> None:
    odd = replace(summary, points=(replace(summary.points[0], label='a, "b"\nc'),), best_id=None)
    assert pd.read_csv(io.StringIO(trials_csv(odd)))["label"].tolist() == ['a, "b"\nc']
