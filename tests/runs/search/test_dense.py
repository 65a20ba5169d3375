"""A dense model searched from end to end: the seam through which tasks other than classification go."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest
import torch

from autoq.errors import DataError, RunDirectoryError, SpaceError, TaskError
from autoq.recipe import Recipe
from autoq.report import write_report
from autoq.report.from_run import summarize
from autoq.report.words import headline
from autoq.runs.evaluate import evaluate_recipe
from autoq.runs.opening import GivenObjects
from autoq.runs.search.result import SearchOutcome
from autoq.runs.search.run import run_search
from autoq.runs.search.settings import SearchSettings, make_settings
from tests.tasks.small_dense import dense_model, dense_session, pictures

SPACE = """
schema_version = 1

[[rules]]
operand = "weight"
scheme = "uniform"
granularity = "channel"
bits = [3, 4, 8]

[[rules]]
operand = ["input", "lhs", "rhs"]
scheme = "uniform"
bits = [3, 4, 8]

[[ties]]
match = "*"
fields = ["bits"]
by = "site"
"""
CALIBRATED_ON, LABELLED = 8, 6


def settings(folder: Path, **changes: object) -> SearchSettings:
    space = folder / "dense.toml"
    space.write_text(SPACE, encoding="utf-8")
    values = {"model": "memory:DenseTransformer", "data": "memory:Tensor", "task": "dense", "output": "depth"}
    values |= {"space": str(space), "trials": 16, "calib_images": CALIBRATED_ON}
    values |= {"second_order": False, "finish": False}  # so that something is left to learn
    values |= {"reconstruct": True, "reconstruct_iterations": 60, "reconstruct_images": CALIBRATED_ON}
    return make_settings(values | changes)


def labelled() -> tuple[torch.Tensor, torch.Tensor]:
    """Maps that full precision is off by 0.1 everywhere."""
    images = pictures(LABELLED, seed=1)
    with torch.no_grad():
        return images, dense_model()(images)["depth"] + 0.1


def given() -> GivenObjects:
    return GivenObjects(dense_session(), pictures(CALIBRATED_ON), labelled())


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> SearchOutcome:
    folder = tmp_path_factory.mktemp("dense")
    result = run_search(settings(folder), folder / "run", given=given())
    write_report(summarize(folder / "run"), folder / "run")
    return result


def best_recipe(found: SearchOutcome) -> Recipe:
    return Recipe.load(Path(found.out) / "recipes" / f"{found.best}.json")


def test_a_front_of_recipes_with_the_tasks_metrics(found: SearchOutcome) -> None:
    assert len(found.front) >= 2
    with torch.no_grad():
        reference = dense_model()(pictures(CALIBRATED_ON))["depth"].double()
    for point in found.front:
        recipe = Recipe.load(point.recipe)
        assert recipe.task is not None
        assert {key: recipe.task[key] for key in ("name", "output")} == {"name": "dense", "output": "depth"}
        assert recipe.task["variance"] == pytest.approx(float(reference.var(correction=0)), rel=1e-6)
        assert recipe.score is not None
        assert recipe.score.metrics.keys() == {"rmse", "mae"}
        assert recipe.score.labelled_images == LABELLED
        assert recipe.score.agreement_percent is None
        assert recipe.score.output_mse is not None
        expected = recipe.score.output_mse / (2 * recipe.task["variance"])
        assert recipe.score.kl_nats == pytest.approx(expected, rel=1e-6)
    score = json.loads(Path(found.front[0].recipe).read_text(encoding="utf-8"))["score"]
    assert list(score)[:7] == ["kl_nats", "sqnr_db", "output_mse", "images", "rmse", "mae", "labelled_images"]
    assert list(score)[7:] == ["labels_by", "labelled_kl_nats", "full_precision"]


def test_a_recipe_reproduces_its_score(found: SearchOutcome) -> None:
    recipe = best_recipe(found)
    images = pictures(CALIBRATED_ON)
    measured = evaluate_recipe(recipe, calib_data=images, session=dense_session())
    assert recipe.score is not None
    assert measured.score.kl_nats == recipe.score.kl_nats
    on_labels = evaluate_recipe(recipe, labelled(), calib_data=images, session=dense_session())
    assert on_labels.accuracy is not None
    assert on_labels.accuracy.metrics == pytest.approx(recipe.score.metrics)
    assert on_labels.accuracy.metrics["rmse"] > 0.05


def test_finishing_brings_predictions_nearer(found: SearchOutcome, tmp_path: Path) -> None:
    shutil.copytree(found.out, tmp_path / "run")
    changed = settings(Path(found.out).parent, finish=True, reconstruct=False)
    finished = run_search(changed, tmp_path / "run", given=given()).finished
    assert {point.id for point in finished} == {point.id for point in found.reconstructed}
    for point in finished:
        before = Recipe.load(Path(found.out) / "recipes" / f"{point.id}.json").score
        assert before is not None
        assert point.kl_nats < before.kl_nats
        assert point.metrics.keys() == {"rmse", "mae"}


def test_reconstruction_brings_blocks_and_predictions_nearer(found: SearchOutcome) -> None:
    assert found.reconstructed
    for point in found.reconstructed:
        before = Recipe.load(Path(found.out) / "recipes" / f"{point.id}.json").score
        assert before is not None
        assert point.kl_nats < before.kl_nats
        assert point.metrics.keys() == {"rmse", "mae"}
        blocks = pd.read_csv(Path(point.recipe).with_name("reconstruction.csv"))
        last = blocks.iloc[-1]
        assert last["loss"] == "kl"
        assert last["after"] < last["before"]


def test_the_report_speaks_of_the_tasks_metric(found: SearchOutcome) -> None:
    out = Path(found.out)
    for name in ("trials.csv", "pareto.csv"):
        columns = pd.read_csv(out / name).columns
        assert "rmse" in columns
        assert "top1_percent" not in columns
    assert {"rmse_before", "rmse"} <= set(pd.read_csv(out / "improved.csv").columns)
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "root mean squared error" in page
    assert "top-1" not in page
    assert "<dt>Agreement</dt>" not in page
    summary = summarize(out)
    assert summary.full_precision_metric == pytest.approx(0.1, rel=1e-3)
    assert "RMSE" in headline(summary)
    assert "full precision 0.1" in headline(summary)
    assert (out / "pareto.png").stat().st_size > 10_000


def test_another_task_does_not_go_on(found: SearchOutcome, tmp_path: Path) -> None:
    folder = Path(found.out).parent
    for changes, expected in (({"output": "features"}, "output"), ({"task": "classification"}, "task")):
        with pytest.raises(RunDirectoryError, match=f"another .*{expected}"):
            run_search(settings(folder, **changes), found.out, given=given())
    with pytest.raises(TaskError, match="no output 'dept' to compare, there is 'features', 'depth'"):
        run_search(settings(tmp_path, output="dept"), tmp_path / "run", given=given())
    with pytest.raises(SpaceError, match="'agreement' counts equal predictions"):
        settings(tmp_path, proxy="agreement")
    with pytest.raises(DataError, match="labels of images in 'digits/val' are classes"):
        run_search(settings(tmp_path, eval_data="digits/val"), tmp_path / "run", given=GivenObjects(dense_session()))
