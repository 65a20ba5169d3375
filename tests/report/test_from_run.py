"""Reports of real runs, finished and not."""

from __future__ import annotations

import csv
import io
import json
import shutil
from pathlib import Path

import pytest

from autoq.errors import RunDirectoryError
from autoq.events import Event, PhaseStarted, TrialFinished
from autoq.optimization.front import hypervolume
from autoq.report import render_page, write_report
from autoq.report.from_run import summarize
from autoq.report.tables import pareto_csv
from autoq.report.words import headline
from autoq.runs.search.directory import SearchDirectory
from autoq.runs.search.run import run_search
from tests.runs.small_run import PHOTOS, TRIALS, finished_run, interrupt_at, small_settings, trace_once

FILES = ["trials.csv", "pareto.csv", "pareto.png", "report.html"]


@pytest.fixture(scope="module")
def run() -> Path:
    return finished_run()


def test_the_run_in_numbers(run: Path) -> None:
    summary, record = summarize(run), SearchDirectory(run).require()
    assert (summary.model, summary.data, summary.images) == ("vit_digits", "digits", 16)
    assert (summary.budget_text, summary.budget) == ("w4a4", record.budgets["bops"])
    assert len(summary.points) == TRIALS
    assert summary.full_precision_bops == 1024 * summary.macs
    assert (summary.eval_data, summary.eval_images) == (str(run.parent / "photos"), PHOTOS)
    assert summary.full_precision_metric == pytest.approx(100, abs=10)
    assert not summary.interrupted
    assert summary.settings["trials"] == str(TRIALS)
    assert sum(site.macs for site in summary.sites) == summary.macs


def test_its_points(run: Path) -> None:
    summary = summarize(run)
    front = [point for point in summary.points if point.on_front]
    for point in summary.points:
        assert point.feasible == (point.bops <= summary.budget)
        beaten = any(
            other.feasible and other.bops <= point.bops and other.kl_nats < point.kl_nats for other in summary.points
        )
        assert point.on_front == (point.feasible and not beaten)
        shown = point.on_front or point.origin == "uniform"
        assert (point.recipe_path is not None) == (point.metric is not None) == shown
        assert point.recipe is not None
        assert point.recipe["score"]["kl_nats"] == point.kl_nats
        if point.recipe_path is not None:
            assert json.loads((run / point.recipe_path).read_text()) == point.recipe
    best = min(front, key=lambda point: point.kl_nats)
    assert summary.best_id == best.id


def test_the_hypervolume_and_its_reference(run: Path) -> None:
    """A share of uniform 8/8's BOPs times decades below the worst uniform point."""
    summary, record = summarize(run), SearchDirectory(run).require()
    worst = max(point.kl_nats for point in summary.points if point.origin == "uniform")
    points = [(point.bops, point.kl_nats) for point in summary.points if point.feasible]
    assert record.uniform_8_8_cost == 64 * summary.macs
    assert summary.hypervolume == pytest.approx(hypervolume(points, (64 * summary.macs, worst)) / (64 * summary.macs))
    assert "224 M BOPs (uniform 8/8)" in summary.hypervolume_reference


def test_written(run: Path, tmp_path: Path) -> None:
    summary = summarize(run)
    paths = write_report(summary, tmp_path)
    assert [path.name for path in paths] == FILES
    with (tmp_path / "trials.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["id"] for row in rows] == [point.id for point in summary.points]
    assert [float(row["kl_nats"]) for row in rows] == [point.kl_nats for point in summary.points]


@pytest.mark.parametrize(("trials", "best"), [(0, False), (1, True), (3, True), (9, True)])
def test_a_run_that_was_interrupted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trials: int, best: bool) -> None:
    trace_once(monkeypatch)

    def stop(event: Event) -> bool:
        if trials == 0:
            return isinstance(event, PhaseStarted) and event.phase == "sensitivity"
        return isinstance(event, TrialFinished)

    with pytest.raises(KeyboardInterrupt):
        run_search(small_settings(tmp_path), tmp_path / "run", interrupt_at(stop, max(trials, 1)))
    summary = summarize(tmp_path / "run")
    assert summary.interrupted
    assert len(summary.points) == (trials + 2 if trials else 0), "exact allocations come before the others"
    assert (summary.best_id is not None) == best
    assert (summary.hypervolume is not None) == best
    assert headline(summary)
    assert all(point.recipe is not None for point in summary.points if point.on_front)
    assert [path.name for path in write_report(summary, tmp_path / "run")] == FILES


def test_before_the_first_trial_is_stored(run: Path, tmp_path: Path) -> None:
    shutil.copy(run / "run.json", tmp_path)
    assert summarize(tmp_path).points == ()


def test_no_run_and_damaged_runs(run: Path, tmp_path: Path) -> None:
    with pytest.raises(RunDirectoryError, match="is no run directory"):
        summarize(tmp_path)
    shutil.copytree(run, tmp_path / "run")
    (tmp_path / "run" / "recipes" / "w4a4.json").write_text("{")
    with pytest.raises(RunDirectoryError, match=r"w4a4\.json"):
        summarize(tmp_path / "run")
    written = json.loads((run / "recipes" / "w4a4.json").read_text())
    (tmp_path / "run" / "recipes" / "w4a4.json").unlink()
    point = next(point for point in summarize(tmp_path / "run").points if point.id == "w4a4")
    assert point.recipe_path is None, "a kill may come between a trial and its recipe"
    assert point.recipe == written
    assert list(point.recipe) == list(written)
    (tmp_path / "run" / "space.json").write_text("{")
    with pytest.raises(RunDirectoryError, match=r"space\.json.*the same search writes it again"):
        summarize(tmp_path / "run")
    (tmp_path / "run" / "study.log").write_text('{"op_code":\n')
    with pytest.raises(RunDirectoryError, match="damaged"):
        summarize(tmp_path / "run")


@pytest.mark.parametrize(("proxy", "attribute"), [("mse", "output_mse"), ("agreement", "disagreement_percent")])
def test_a_search_by_another_loss_is_told_by_that(tmp_path: Path, proxy: str, attribute: str) -> None:
    """Front, best, headline, tables and page; the KL stays beside it."""
    shutil.copytree(finished_run(), tmp_path / "run")
    path = tmp_path / "run" / "run.json"
    path.write_text(path.read_text().replace('"proxy": "kl"', f'"proxy": "{proxy}"'))
    summary = summarize(tmp_path / "run")
    assert summary.loss.name == attribute
    front = summary.front
    assert [point.loss for point in front] == sorted((point.loss for point in front), reverse=True)
    assert summary.best is not None
    assert summary.best.loss == min(point.loss for point in summary.points if point.feasible)
    assert any(point.loss != point.kl_nats for point in front)
    assert f"{summary.loss.title} {summary.loss.format(summary.best.loss)}" in headline(summary)
    rows = list(csv.DictReader(io.StringIO(pareto_csv(summary))))
    assert [float(row[attribute]) for row in rows] == [point.loss for point in front]
    assert [float(row["kl_nats"]) for row in rows] == [point.kl_nats for point in front]
    page = render_page(summary)
    assert f'"loss":{{"title":"{summary.loss.title}"' in page
    assert '"is_kl":false' in page
