"""Scores: their keys, and their metrics."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from autoq.recipe import (
    Recipe,
    ScoreRecord,
)
from tests.recipe.recipes import make_recipe

METRICS = {"top1_percent": 90.0, "top5_percent": 99.0}
LAST = ("labelled_images", "labels_by")


def test_a_score_has_the_keys_of_its_task(tmp_path: Path) -> None:
    score = ScoreRecord(kl_nats=0.1, agreement_percent=96.0, sqnr_db=17.0, output_mse=0.5, images=128)
    classified = make_recipe(score=score.with_metrics(METRICS, 540, "name", {"top1_percent": 91.0}))
    classified.save(tmp_path / "classification.json")
    written = json.loads((tmp_path / "classification.json").read_text(encoding="utf-8"))
    assert list(written["score"]) == [
        *("kl_nats", "agreement_percent", "sqnr_db", "logit_mse", "images"),
        *("top1_percent", "top5_percent", "labelled_images", "labels_by", "full_precision"),
    ]
    assert "task" not in written
    read = Recipe.load(tmp_path / "classification.json").score
    assert read == classified.score
    assert read is not None
    assert (read.metrics, read.labels_by, read.full_precision) == (METRICS, "name", {"top1_percent": 91.0})
    assert read.without_metrics() == score

    dense = score.model_copy(update={"agreement_percent": None}).with_metrics({"rmse": 0.25}, 6, "index", None)
    document = make_recipe(score=dense, task={"name": "dense", "variance": 2.0}).to_json()
    assert document["task"] == {"name": "dense", "variance": 2.0}
    assert list(document["score"]) == ["kl_nats", "sqnr_db", "output_mse", "images", "rmse", *LAST]


def test_metrics_of_a_score_are_numbers() -> None:
    read = ScoreRecord.model_validate({"kl_nats": 0.1, "sqnr_db": 9.0, "images": 8, "top1_percent": None})
    assert read.metrics == {}
    with pytest.raises(ValueError, match="should be a valid number"):
        ScoreRecord.model_validate({"kl_nats": 0.1, "sqnr_db": 9.0, "images": 8, "top1_percent": "many"})
