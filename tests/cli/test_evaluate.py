"""``autoq evaluate``."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from autoq.recipe import Recipe
from tests.cli.command import Command, one_json, refusal
from tests.runs.small_run import PHOTOS


def test_evaluate(command: Command, run: Path) -> None:
    path = run / "recipes" / "w4a4.json"
    recipe = Recipe.load(path)
    assert recipe.score is not None
    assert recipe.cost is not None
    document = one_json(command("evaluate", path, "--json"))
    fields = {"bops", "group_bops", "weight_bytes", "kl_nats", "agreement_percent", "top1_percent", "top5_percent"}
    assert document.keys() >= fields | {"images"}
    assert (document["kl_nats"], document["images"]) == (recipe.score.kl_nats, recipe.score.images)
    assert (document["bops"], document["weight_bytes"]) == (recipe.cost.bops, recipe.cost.weight_bytes)
    assert document["top1_percent"] is None, "the calibration images are not for accuracy"

    labelled = one_json(command("evaluate", path, "--data", run.parent / "photos", "--json"))
    assert labelled["images"] == PHOTOS
    assert labelled["top1_percent"] == pytest.approx(recipe.score.metrics["top1_percent"])

    lines = command("evaluate", path, "--data", run.parent / "photos").out
    assert "55.9 M BOPs" in lines
    assert f"top-1 {recipe.score.metrics['top1_percent']:.2f} %" in lines
    full = labelled["full_precision"]["top1_percent"]
    assert f"full precision top-1 {full:.2f} %" in lines
    assert labelled["labels_by"] == "name"
    assert "labels matched by name" in lines
    assert "accuracy   not measured: no labels" in command("evaluate", path).out


def test_of_a_run_the_best_or_what_is_picked(command: Command, run: Path) -> None:
    best = one_json(command("export", run, "-o", "best.json", "--json"))["id"]
    same = [one_json(command("evaluate", given, "--json")) for given in (run, run / "recipes" / f"{best}.json")]
    assert same[0] == same[1]
    picked = one_json(command("evaluate", run, "--pick", "w4a4", "--json"))
    assert picked == one_json(command("evaluate", run / "recipes" / "w4a4.json", "--json"))
    assert "is no run directory: it has no run.json" in refusal(command, "evaluate", run / "recipes")


def test_infinities_are_null(command: Command, run: Path, tmp_path: Path) -> None:
    """JSON has none; a recipe that quantizes nothing has an infinite SQNR."""
    recipe = Recipe.load(run / "recipes" / "w4a4.json")
    recipe.model_copy(update={"sites": {}, "cost": None, "score": None}).save(tmp_path / "float.json")
    document = json.loads(command("evaluate", tmp_path / "float.json", "--json").out)
    assert document["sqnr_db"] is None
    assert (document["kl_nats"], document["agreement_percent"]) == (0.0, 100.0)


def test_recipes(command: Command, run: Path, tmp_path: Path) -> None:
    recipe = Recipe.load(run / "recipes" / "w4a4.json")
    theirs = recipe.model.model_copy(update={"weights_sha256": "ab" * 32})
    recipe.model_copy(update={"model": theirs}).save("theirs.json")
    assert "made for the weights abababababab" in refusal(command, "evaluate", "theirs.json")
    text = (run / "recipes" / "w4a4.json").read_text()
    (tmp_path / "typo.json").write_text(text.replace('"granularity"', '"granularty"', 1))
    assert "Did you mean 'granularity'?" in refusal(command, "evaluate", "typo.json")
    (tmp_path / "typo.json").write_text(text.replace('"blocks.0.attn.qkv"', '"blocks.0.attn.kqv"'))
    assert "no site 'blocks.0.attn.kqv'" in refusal(command, "evaluate", "typo.json")
    (tmp_path / "typo.json").write_text(text.replace('"uniform"', '"unifrom"', 1))
    assert "Did you mean 'uniform'?" in refusal(command, "evaluate", "typo.json")
    (tmp_path / "typo.json").write_text(text[:100])
    assert "is not JSON" in refusal(command, "evaluate", "typo.json")
    assert "cannot read recipe 'absent.json'" in refusal(command, "evaluate", "absent.json")
    good = run / "recipes" / "w4a4.json"
    assert "no image folder or tar at 'absent'" in refusal(command, "evaluate", good, "--data", "absent")
