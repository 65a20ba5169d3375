"""Each command on good input: what it prints, for people and for programs, and what it writes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

import autoq
from autoq.recipe import Recipe
from autoq.runs.search.directory import SearchDirectory
from tests.cli.command import Command, Outcome, in_a_process
from tests.runs.small_run import PHOTOS, finished_run, small_session, small_settings, write_photos

REPORT = {"pareto.csv", "pareto.png", "report.html", "trials.csv"}


@pytest.fixture(scope="module")
def run() -> Path:
    return finished_run()


@pytest.fixture
def copy(run: Path, tmp_path: Path) -> Path:
    shutil.copytree(run, tmp_path / "run")
    return tmp_path / "run"


def one_json(outcome: Outcome) -> Any:
    assert outcome.status == 0, outcome.err
    assert outcome.out.count("\n") == 1
    return json.loads(outcome.out)


def small_options(folder: Path, **changes: Any) -> list[object]:
    settings = small_settings(folder)
    options = {"space": settings.space, "eval-data": settings.eval_data, "trials": 8, "calib-images": 16} | changes
    return [part for name, value in options.items() for part in (f"--{name}", value)]


def test_search_json(command: Command, tmp_path: Path) -> None:
    out = tmp_path / "run"
    outcome = command("search", "--budget-bops", "w4a4", *small_options(tmp_path), "--out", out, "--json")
    document = one_json(outcome)
    assert document.keys() == {"out", "front", "best", "budget_bops", "reconstructed"}
    assert document["reconstructed"] == []
    assert document["out"] == str(out)
    assert document["budget_bops"] == SearchDirectory(out).require().budget_bops
    for point in document["front"]:
        assert point.keys() == {"id", "bops", "kl_nats", "recipe"}
        recipe = Recipe.load(point["recipe"])
        assert recipe.cost is not None
        assert recipe.cost.bops == point["bops"] <= document["budget_bops"]
    assert document["best"] == min(document["front"], key=lambda point: point["kl_nats"])["id"]
    names = {".lock", "bank", "recipes", "run.json", "sensitivity.csv", "study.log"}
    assert {path.name for path in out.iterdir()} == REPORT | names
    assert outcome.complaints == []
    assert one_json(command("search", "--budget-bops", "w4a4", *small_options(tmp_path), "--out", out, "--json")) == (
        document
    )


def test_search_for_people(command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without ``--out``: a directory named after the model and the budget."""
    monkeypatch.chdir(tmp_path)
    outcome = command("search", "--budget-bops", "25%", *small_options(tmp_path, trials=6), "--time-limit", "10m")
    assert outcome.status == 0
    out = Path("autoq-runs/vit_digits-25")
    assert SearchDirectory(out).require().state == "finished"
    headline, page, recipe = outcome.out.splitlines()
    assert "KL" in headline
    assert page == f"page:   {out}/report.html"
    assert recipe.startswith(f"recipe: {out}/recipes/")
    assert Path(recipe.split()[1]).is_file()
    assert "evaluating recipes 6/6: best KL within budget 0." in outcome.err
    assert SearchDirectory(out).require().settings.time_limit_seconds == 600


def test_options_win_over_the_study_file(command: Command, tmp_path: Path) -> None:
    settings = small_settings(tmp_path)
    study = tmp_path / "study.toml"
    study.write_text(
        f'space = "{settings.space}"\neval_data = "{settings.eval_data}"\nbudget_bops = "w3a3"\ntrials = 6\n'
        'calib_images = 16\nsampler = "random"\n'
    )
    one_json(command("search", study, "--sampler", "tpe", "--out", tmp_path / "run", "--json"))
    found = SearchDirectory(tmp_path / "run").require().settings
    assert (found.sampler, found.budget_bops, found.trials) == ("tpe", "w3a3", 6)


def test_report(command: Command, copy: Path) -> None:
    outcome = command("report", copy)
    assert outcome.status == 0
    headline, *paths = outcome.out.splitlines()
    assert "KL" in headline
    assert {Path(path).name for path in paths} == REPORT
    assert all(Path(path).stat().st_size for path in paths)
    document = one_json(command("report", copy, "--json"))
    assert document == {"out": str(copy), "headline": headline, "files": paths}


def test_export(command: Command, run: Path, tmp_path: Path) -> None:
    outcome = command("export", run, "--pick", "w4a4", "-o", tmp_path / "mine.json")
    assert (outcome.status, outcome.out) == (0, f"w4a4 -> {tmp_path / 'mine.json'}\n")
    assert Recipe.load(tmp_path / "mine.json") == Recipe.load(run / "recipes" / "w4a4.json")
    document = one_json(command("export", run, "-o", tmp_path / "best.json", "--json"))
    assert document["format"] == "recipe"
    assert Recipe.load(tmp_path / "best.json") == Recipe.load(run / "recipes" / f"{document['id']}.json")


def test_evaluate(command: Command, run: Path) -> None:
    path = run / "recipes" / "w4a4.json"
    recipe = Recipe.load(path)
    assert recipe.score is not None
    assert recipe.cost is not None
    document = one_json(command("evaluate", path, "--json"))
    fields = {"bops", "group_bops", "weight_bytes", "kl_nats", "agreement_percent", "top1_percent", "top5_percent"}
    assert document.keys() >= fields | {"images"}
    assert (document["kl_nats"], document["images"]) == (recipe.score.kl_nats, 16)
    assert (document["bops"], document["weight_bytes"]) == (recipe.cost.bops, recipe.cost.weight_bytes)
    assert document["top1_percent"] is None, "the calibration images are not for accuracy"

    labelled = one_json(command("evaluate", path, "--data", run.parent / "photos", "--json"))
    assert labelled["images"] == PHOTOS
    assert labelled["top1_percent"] == pytest.approx(recipe.score.metrics["top1_percent"])

    lines = command("evaluate", path, "--data", run.parent / "photos").out
    assert "55.9 M BOPs" in lines
    assert f"top-1 {recipe.score.metrics['top1_percent']:.2f} %" in lines
    assert "accuracy   not measured: no labels" in command("evaluate", path).out


def test_infinities_are_null(command: Command, run: Path, tmp_path: Path) -> None:
    """JSON has none; a recipe that quantizes nothing has an infinite SQNR."""
    recipe = Recipe.load(run / "recipes" / "w4a4.json")
    recipe.model_copy(update={"sites": {}, "cost": None, "score": None}).save(tmp_path / "float.json")
    document = one_json(command("evaluate", tmp_path / "float.json", "--json"))
    assert document["sqnr_db"] is None
    assert (document["kl_nats"], document["agreement_percent"]) == (0.0, 100.0)


def test_sites(command: Command) -> None:
    traced = small_session().traced
    document = one_json(command("sites", "--json"))
    assert [site["name"] for site in document] == [site.name for site in traced.sites]
    assert sum(site["macs"] for site in document) == traced.macs
    qkv = next(site for site in document if site["name"] == "blocks.0.attn.qkv")
    assert qkv["op"] == "linear"
    assert [(operand["name"], operand["producer"]) for operand in qkv["operands"]] == [
        ("input", "layer_norm"),
        ("weight", "parameter"),
    ]
    assert qkv["operands"][1]["shape"] == list(traced.weight("blocks.0.attn.qkv").shape)
    lines = command("sites").out.splitlines()
    assert lines[0].split()[:2] == ["site", "op"]
    assert len(lines) == 1 + len(document) + 2 + len(traced.uncounted)
    assert "0.003495 GMACs per image" in lines[-1 - len(traced.uncounted)]


def test_version_and_help(command: Command) -> None:
    assert command("--version").out == f"autoq {autoq.__version__}\n"
    for arguments in (["--help"], ["search", "--help"], ["sites", "--help"]):
        outcome = command(*arguments)
        assert outcome.status == 0
        assert outcome.out.startswith("Usage: ")
    bare = command()
    assert bare.status == 2
    assert "Commands:" in bare.err
    assert len(bare.err.splitlines()) > 5, "the help page keeps its lines"


@pytest.mark.slow
def test_in_a_process_of_its_own(tmp_path: Path) -> None:
    outcome = in_a_process("sites", "--json", cwd=tmp_path)
    assert len(one_json(outcome)) == len(small_session().traced.sites)
    assert outcome.err == ""


def test_quantize_json(command: Command, tmp_path: Path) -> None:
    out = tmp_path / "igq"
    options = ("--method", "igq-vit", "--bits", "w4a4", "--groups", 2, "--calib-images", 8, "--out", out)
    document = one_json(command("quantize", *options, "--json"))
    assert (document["out"], document["method"], document["images"]) == (str(out), "igq-vit w4a4", 8)
    assert document["top1_percent"] is None
    assert {path.name for path in out.iterdir()} == {".lock", "bank", "recipe.json"}
    found = one_json(command("evaluate", document["recipe"], "--json"))
    assert (found["kl_nats"], found["bops"]) == (document["kl_nats"], document["bops"])


def test_quantize_says_where_the_recipe_is(command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_photos(tmp_path / "photos")
    outcome = command("quantize", "--method", "rtn", "--bits", "w8a8s4", "--calib-images", 8, "--eval-data", "photos")
    assert outcome.status == 0, outcome.err
    first, accuracy, last = outcome.out.splitlines()
    assert first.startswith("rtn w8a8s4: KL ")
    assert accuracy.startswith("top-1 ")
    assert accuracy.endswith(f" % of {PHOTOS} images")
    assert last == "recipe: autoq-runs/vit_digits-rtn-w8a8s4/recipe.json"
    assert Recipe.load(last.removeprefix("recipe: ")).method == "rtn w8a8s4"
