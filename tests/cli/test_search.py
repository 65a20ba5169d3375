"""``autoq search``: what it prints and writes, and what it refuses."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from PIL import Image

from autoq.recipe import Recipe
from autoq.runs.search.directory import SearchDirectory
from tests.cli.command import Command, one_json, refusal, small_options
from tests.runs.small_run import SPACE, small_settings

COSTS = {"bops", "weight_bytes", "activation_bytes", "latency_ns"}
REPORT = {"pareto.csv", "pareto.png", "report.html", "trials.csv"}


def test_search_json(command: Command, tmp_path: Path) -> None:
    out = tmp_path / "run"
    outcome = command("search", "--budget-bops", "w4a4", *small_options(tmp_path), "--out", out, "--json")
    document = one_json(outcome)
    assert document.keys() == {
        "out",
        "front",
        "best",
        "budget_bops",
        "budgets",
        "baselines",
        "finished",
        "reconstructed",
    }
    assert (document["finished"], document["reconstructed"]) == ([], [])
    assert [point["id"] for point in document["baselines"]] == ["w3a3", "w4a4", "w6a6"]
    assert document["baselines"][0].keys() == COSTS | {"id", "kl_nats", "calibration_kl_nats"}
    assert document["out"] == str(out)
    assert document["budget_bops"] == SearchDirectory(out).require().budgets["bops"]
    for point in document["front"]:
        assert point.keys() == COSTS | {"id", "kl_nats", "loss", "calibration_kl_nats", "recipe"}
        recipe = Recipe.load(point["recipe"])
        assert recipe.cost is not None
        assert recipe.cost.bops == point["bops"] <= document["budget_bops"]
    assert document["best"] == min(document["front"], key=lambda point: point["kl_nats"])["id"]
    names = {".lock", "bank", "recipes", "run.json", "sensitivity.csv", "space.json", "study.log"}
    assert {path.name for path in out.iterdir()} == REPORT | names
    assert outcome.complaints == []
    assert one_json(command("search", "--budget-bops", "w4a4", *small_options(tmp_path), "--out", out, "--json")) == (
        document
    )


def test_search_for_people(command: Command, tmp_path: Path) -> None:
    """Without ``--out``: a directory named after the model and the budget."""
    outcome = command("search", "--budget-bops", "25%", *small_options(tmp_path, trials=6), "--time-limit", "10m")
    assert outcome.status == 0
    out = Path("autoq-runs/vit_digits-25")
    assert SearchDirectory(out).require().state == "finished"
    headline, images, labelled, page, recipe = outcome.out.splitlines()
    assert re.fullmatch(r"Top-1 over 24 labelled images of .*photos, matched with outputs by name\.", labelled)
    assert images == (
        "KL over labelled images that neither calibrated nor chose; calibrated on 16 images of digits, "
        "chosen on 32 others."
    )
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
    one_json(command("search", study, "--fast", "--sampler", "tpe", "--out", tmp_path / "run", "--json"))
    found = SearchDirectory(tmp_path / "run").require().settings
    assert (found.sampler, found.budget_bops, found.trials) == ("tpe", "w3a3", 6)


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ("vit_digitz", "vit_digitz"),
        ("vit_tinny_patch16_224", "vit_tiny_patch16_224"),
        ("local-dir:absent", "absent"),
        ("local-dir:.", "config.json"),
        ("", ""),
    ],
)
def test_unknown_models(plain_command: Command, model: str, expected: str) -> None:
    assert expected in refusal(plain_command, "search", "--model", model)
    assert expected in refusal(plain_command, "sites", "--model", model)


@pytest.mark.parametrize("option", ["--data", "--eval-data"])
def test_missing_and_empty_folders(command: Command, option: str, tmp_path: Path) -> None:
    assert "no image folder or tar at 'absent'" in refusal(command, "search", option, "absent")
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "a.txt").write_text("no image")
    assert "no images in 'notes'" in refusal(command, "search", option, "notes")
    assert "no image folder or tar at 'note'. Did you mean 'notes'?" in refusal(command, "search", option, "note")


def test_corrupt_images(command: Command, tmp_path: Path) -> None:
    folder = tmp_path / "photos" / "3"
    folder.mkdir(parents=True)
    for name in ("a", "b"):
        Image.effect_noise((8, 8), 50).save(folder / f"{name}.png")
    (folder / "b.png").write_bytes((folder / "b.png").read_bytes()[:60])
    assert "b.png'" in refusal(command, "search", "--data", "photos")
    (folder / "b.png").write_text("not an image")
    message = refusal(command, "search", "--data", "photos")
    assert "it is not an image, or is corrupt; remove or replace it" in message


def test_labels_of_another_model(command: Command, tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        (tmp_path / "pets" / name).mkdir(parents=True)
        Image.new("L", (8, 8)).save(tmp_path / "pets" / name / "a.png")
    message = refusal(command, "search", "--eval-data", "pets")
    assert "cat" in message
    (tmp_path / "flat").mkdir()
    Image.new("L", (8, 8)).save(tmp_path / "flat" / "a.png")
    assert "no labels" in refusal(command, "search", "--eval-data", "flat")


@pytest.mark.parametrize("budget", ["lots", "", "w4", "w4a", "0", "-3G", "0%", "nan", "12.5Q", "1e999", "w0a4", "4,4"])
def test_budgets_that_are_none(command: Command, budget: str) -> None:
    assert f"budget {budget!r}" in refusal(command, "search", f"--budget-bops={budget}")


def test_unreachable_budgets_name_the_least(command: Command) -> None:
    message = refusal(command, "search", "--budget-bops", "1M")
    assert "budget '1M' is 1 M BOPs, but the cheapest recipe in space 'vit_w2-8' costs " in message
    percent = message.partition("(")[2].partition("%")[0]
    assert "cheapest recipe" in refusal(command, "search", "--budget-bops", f"{float(percent) - 0.1:.1f}%")


def test_search_spaces(command: Command, tmp_path: Path) -> None:
    assert "'vit_w28'; give a .toml file" in refusal(command, "search", "--space", "vit_w28")
    assert "Did you mean 'vit_w2-8'?" in refusal(command, "search", "--space", "vit_w28")
    assert "'absent.toml': No such file" in refusal(command, "search", "--space", "absent.toml")
    (tmp_path / "mine.toml").write_text(SPACE.replace("granularity", "granularty", 1))
    message = refusal(command, "search", "--space", "mine.toml")
    assert "rule 1 (line 4): unknown key 'granularty'. Did you mean 'granularity'?" in message
    (tmp_path / "mine.toml").write_text(SPACE.replace('"adalog"', '"adalgo"'))
    assert "Did you mean 'adalog'?" in refusal(command, "search", "--space", "mine.toml")
    (tmp_path / "mine.toml").write_text("[[rules]\n")
    assert "is not TOML" in refusal(command, "search", "--space", "mine.toml")


def test_several_budgets(command: Command, tmp_path: Path) -> None:
    """What is chosen keeps all of them; the table says what all cost."""
    budgets = ["--budget-bops", "90%", "--budget-size", "w4a4", "--budget-activations", "w6a6"]
    document = one_json(command("search", *budgets, *small_options(tmp_path, trials=8), "--out", "run", "--json"))
    assert document["budgets"].keys() == {"bops", "size", "activations"}
    names = {"bops": "bops", "weight_bytes": "size", "activation_bytes": "activations"}
    for point in document["front"]:
        assert all(point[field] <= document["budgets"][kind] for field, kind in names.items())
    best = next(point for point in document["front"] if point["id"] == document["best"])
    assert best["weight_bytes"] > 0.8 * document["budgets"]["size"], "the tightest budget is spent"
    recipe = Recipe.load(best["recipe"])
    assert recipe.search is not None
    assert recipe.search.budgets == {"bops": "90%", "size": "w4a4", "activations": "w6a6"}
    assert command("export", "run", "--pick", "size=75%,activations=w6a6", "-o", "cheap.json").status == 0
    cheap = Recipe.load("cheap.json").cost
    assert cheap is not None
    assert cheap.weight_bytes <= best["weight_bytes"]
    message = refusal(command, "export", "run", "--pick", "size=1kB", "-o", "none.json")
    assert "nothing on the front costs 1 kB of weights or less; the least on the front is " in message


def test_budgets_that_cannot_be_kept_name_the_least_of_each(command: Command, tmp_path: Path) -> None:
    message = refusal(command, "search", "--budget-size", "60%", "--budget-activations", "10%")
    assert "budget '10%' is" in message
    assert "of activations, but the cheapest recipe in space 'vit_w2-8' costs " in message
    assert re.search(r"least of each: [\d.]+ kB of weights and [\d.]+ kB of activations", message)
    assert "cannot read budget '3G': write it as 3.2MB" in refusal(command, "search", "--budget-size", "3G")
    assert "give a latency table" in refusal(command, "search", "--budget-latency", "4ms")
    table = tmp_path / "times.csv"
    table.write_text("site,input,weight,lhs,rhs,milliseconds\nhead,8,8,,,0.1\n")
    latency = ["--budget-latency", "60%", "--latency-table", table]
    assert "no time for patch_embed.proj (input 8 bits, uniform, weight 8 bits" in refusal(command, "search", *latency)


def test_operands_by_name(command: Command, tmp_path: Path) -> None:
    options = ["--budget-bops", "60%", *small_options(tmp_path, trials=4), "--exclude", "patch_embed.*"]
    point = one_json(command("search", *options, "--fix", "head:*=8", "--out", "run", "--json"))["front"][0]
    recipe = Recipe.load(point["recipe"])
    assert {config.bits for config in recipe.sites["head"].values()} == {8}
    assert not any(site.startswith("patch_embed") for site in recipe.sites)
    assert recipe.search is not None
    assert (recipe.search.fix, recipe.search.exclude) == (("head:*=8",), ("patch_embed.*",))
    assert "another fix (was ['head:*=8'], is ['head:*=6'])" in refusal(
        command, "search", *options, "--fix", "head:*=6", "--out", "run"
    )
    assert "--fix: cannot read 'head'" in refusal(command, "search", "--fix", "head")
    assert (
        "fix 'haed:*=8' matches no operand of this model (`autoq sites` lists them). Did you mean 'head'?"
        in refusal(command, "search", "--fix", "haed:*=8")
    )


def test_study_files(command: Command, tmp_path: Path) -> None:
    (tmp_path / "study.toml").write_text("trails = 3\n")
    message = refusal(command, "search", "study.toml")
    assert "study 'study.toml': unknown key 'trails'. Did you mean 'trials'?" in message
    assert "cannot read study 'absent.toml': No such file" in refusal(command, "search", "absent.toml")


def test_run_directories(command: Command, tmp_path: Path, run: Path) -> None:
    (tmp_path / "file").write_text("mine")
    assert "cannot write to directory 'file'" in refusal(command, "search", "--out", "file")
    message = refusal(command, "search", "--out", run)
    assert f"{str(run)!r} holds a search with another " in message
