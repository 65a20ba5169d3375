"""``autoq export``."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from autoq.exporters import EXPORTERS
from autoq.recipe import Recipe
from tests.cli.command import Command, one_json, refusal


def sites_and_score(path: Path) -> tuple[object, object]:
    recipe = Recipe.load(path)
    return recipe.sites, recipe.score


def test_export(command: Command, run: Path, tmp_path: Path) -> None:
    outcome = command("export", run, "--pick", "w4a4", "-o", tmp_path / "mine.json", "--check-images", 8)
    first, figures, *rest = outcome.out.splitlines()
    assert (outcome.status, first) == (0, f"w4a4, as searched -> {tmp_path / 'mine.json'}")
    assert re.fullmatch(r"KL \S+ nats over \d+ images, \S+ M BOPs; top-1 .*, full precision .*", figures)
    assert "with autoq on 8 images: the same answer on 100.0 %, mean difference 0 " in rest[1]
    assert sites_and_score(tmp_path / "mine.json") == sites_and_score(run / "recipes" / "w4a4.json")
    document = one_json(command("export", run, "-o", tmp_path / "best.json", "--json"))
    assert (document["format"], document["version"], document["agreement_percent"]) == ("recipe", "searched", 100)
    best = run / "recipes" / f"{document['id']}.json"
    assert sites_and_score(tmp_path / "best.json") == sites_and_score(best)


def test_an_exported_recipe_scores_the_same_without_the_run(command: Command, run: Path, tmp_path: Path) -> None:
    for format_, name in (("recipe", "best.json"), ("bundle", "best.zip")):
        document = one_json(command("export", run, "--format", format_, "-o", tmp_path / name, "--json"))
        measured = one_json(command("evaluate", tmp_path / name, "--json"))
        score = Recipe.load(run / "recipes" / f"{document['id']}.json").score
        assert score is not None
        assert measured["kl_nats"] == score.kl_nats


def test_a_recipe_and_a_folder_with_one(command: Command, run: Path, tmp_path: Path) -> None:
    recipe = run / "recipes" / "w4a4.json"
    outcome = command("export", recipe, "--format", "pt2", "-o", tmp_path / "mine.pt2", "--check-images", 8)
    assert outcome.out.startswith(f"w4a4.json -> {tmp_path / 'mine.pt2'}\n")
    assert (tmp_path / "mine.pt2").exists()
    (tmp_path / "quantized").mkdir()
    shutil.copy(recipe, tmp_path / "quantized" / "recipe.json")
    shutil.copytree(run / "bank", tmp_path / "quantized" / "bank")
    document = one_json(command("export", tmp_path / "quantized", "-o", tmp_path / "again.json", "--json"))
    assert (document["id"], document["version"]) == ("quantized", "")
    assert "has one recipe" in refusal(command, "export", recipe, "--pick", "knee", "-o", "x")


def test_a_recipe_is_not_replaced_by_another_format(command: Command, run: Path, tmp_path: Path) -> None:
    bundle, program = tmp_path / "mine.zip", tmp_path / "mine.pt2"
    options = ["--check-images", 8]
    assert command("export", run, "--format", "bundle", "-o", bundle, *options).status == 0
    kept = {path: path.read_bytes() for path in (run / "recipes" / "w4a4.json", bundle)}
    for path in kept:
        message = refusal(command, "export", path, "--format", "pt2", "-o", path)
        assert f"'{path}' is a recipe, which format 'pt2' would replace: choose another name" in message
    assert {path: path.read_bytes() for path in kept} == kept
    for _ in "ab":  # what is no recipe is replaced, as users expect
        assert command("export", bundle, "--format", "pt2", "-o", program, *options).status == 0
    assert command("export", run, "--format", "bundle", "-o", bundle, *options).status == 0
    assert bundle.read_bytes() == kept[bundle], "a bundle is made of the same bytes each time"


def test_a_target_is_held_against(command: Command, run: Path, tmp_path: Path) -> None:
    recipe, output = run / "recipes" / "w4a4.json", tmp_path / "mine.json"
    message = refusal(command, "export", recipe, "--target", "fpga", "-o", output)
    assert "format 'recipe' for target 'fpga' cannot hold patch_embed.proj:" in message
    assert "the target has symmetric True, not False" in message
    assert not output.exists()
    options = ["--check-images", 8, "--json"]
    document = one_json(command("export", recipe, "--target", "fpga", "--allow-float", "-o", output, *options))
    assert "patch_embed.proj:weight" in document["left_in_float"]
    assert "unknown target 'fpgas'" in refusal(command, "export", recipe, "--target", "fpgas", "-o", output)


def test_the_formats_are_listed(command: Command) -> None:
    listed = one_json(command("export", "--list", "--json"))
    assert [entry["format"] for entry in listed] == list(EXPORTERS)
    out = command("export", "--list").out
    for name, exporter in EXPORTERS.items():
        assert f"{name} ({exporter.suffix or 'folder'})" in out
        assert exporter.loses in out
    assert "say what to export" in refusal(command, "export")


def test_exports(command: Command, run: Path) -> None:
    assert "Did you mean 'knee'?" in refusal(command, "export", run, "--pick", "kne", "-o", "x")
    assert "the cheapest is w3a3" in refusal(command, "export", run, "--pick", "1M", "-o", "x")
    message = refusal(command, "export", run, "--format", "recip", "-o", "x")
    assert "unknown format 'recip'" in message
    assert "Did you mean 'recipe'?" in message
    message = refusal(command, "export", run, "--pick", "w4a4", "--as", "finished", "-o", "x")
    assert "w4a4 is not finished, nothing is: run the search with --finish" in message
    assert "Did you mean 'finished'?" in refusal(command, "export", run, "--as", "finishd", "-o", "x")
    assert "cannot write 'absent/x': No such file" in refusal(command, "export", run, "-o", "absent/x")


def test_what_is_neither_a_run_nor_a_recipe(command: Command) -> None:
    assert "cannot read recipe 'absent': No such file" in refusal(command, "export", "absent", "-o", "x")
    assert "'.' is no run directory" in refusal(command, "export", ".", "-o", "x")
