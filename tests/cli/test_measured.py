"""What commands say of a measured recipe."""

from __future__ import annotations

from autoq.cli.measured import accuracy_line, improved_lines, measured_json, metrics_text
from autoq.recipe import CostRecord, ModelReference, Recipe, ScoreRecord
from autoq.tasks import CLASSIFICATION, Accuracy, BaseTask, DenseTask, task_to_record


def make_recipe(task: BaseTask, metrics: dict[str, float]) -> Recipe:
    score = ScoreRecord(kl_nats=0.25, sqnr_db=12.0, output_mse=0.5, images=16, labelled_images=24 if metrics else None)
    return Recipe(
        model=ModelReference(name="m", weights_sha256="0"),
        sites={},
        cost=CostRecord(bops=8, group_bops=1, weight_layers_only_bops=6, weight_bytes=2),
        task=task_to_record(task),
        score=score.with_metrics(metrics, 24, "name", metrics) if metrics else score,
    )


def test_metrics_have_keys_whether_measured_or_not() -> None:
    measured = measured_json(make_recipe(CLASSIFICATION, {"top1_percent": 71.344, "top5_percent": 90.0}))
    assert (measured["bops"], measured["kl_nats"], measured["images"]) == (8, 0.25, 16)
    assert (measured["top1_percent"], measured["top5_percent"], measured["labelled_images"]) == (71.344, 90.0, 24)
    unmeasured = measured_json(make_recipe(CLASSIFICATION, {}))
    assert unmeasured.keys() == measured.keys()
    assert unmeasured["top1_percent"] is unmeasured["labelled_images"] is unmeasured["full_precision"] is None
    assert (measured["labels_by"], measured["full_precision"]["top1_percent"]) == ("name", 71.344)
    assert {"rmse", "mae"} <= measured_json(make_recipe(DenseTask(), {})).keys()


def test_the_main_metric_is_told_in_its_own_unit() -> None:
    recipe = make_recipe(CLASSIFICATION, {"top1_percent": 71.344, "top5_percent": 90.0})
    assert accuracy_line(recipe) == "top-1 71.34 %, full precision 71.34 %, of 24 images, labels by name"
    assert accuracy_line(make_recipe(CLASSIFICATION, {})) is None
    assert accuracy_line(recipe.model_copy(update={"score": None})) is None
    line = accuracy_line(make_recipe(DenseTask(), {"rmse": 0.0432, "mae": 0.03}))
    assert line is not None
    assert line.startswith("RMSE 0.04")
    assert "%" not in line


def test_all_metrics_in_a_line() -> None:
    accuracy = Accuracy({"top1_percent": 71.344, "top5_percent": 90.167}, 24)
    assert metrics_text(CLASSIFICATION, accuracy) == "top-1 71.34 %, top-5 90.17 %"


def test_an_improved_recipe_stands_beside_the_one_before() -> None:
    before, after = make_recipe(CLASSIFICATION, {}), make_recipe(CLASSIFICATION, {"top1_percent": 71.34})
    first, second = improved_lines(before, after)
    assert first.startswith("KL 0.25 -> 0.25 nats over 16 images, ")
    assert second.startswith("top-1 71.34 %, full precision 71.34 %, of 24 images")
    fewer = before.model_copy(update={"score": ScoreRecord(kl_nats=0.5, sqnr_db=1.0, images=8)})
    assert improved_lines(fewer, before)[0].startswith("KL 0.25 nats over 16 images, ")
