"""``autoq quantize``."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from autoq.recipe import Recipe
from tests.cli.command import Command, one_json, refusal
from tests.runs.small_run import PHOTOS, write_photos


def test_quantize_json(command: Command, tmp_path: Path) -> None:
    out = tmp_path / "igq"
    options = ("--method", "igq-vit", "--bits", "w4a4", "--groups", 2, "--calib-images", 8, "--out", out)
    document = one_json(command("quantize", *options, "--json"))
    assert (document["out"], document["method"], document["images"]) == (str(out), "igq-vit w4a4", 8)
    assert document["top1_percent"] is None
    assert {path.name for path in out.iterdir()} == {".lock", "bank", "recipe.json"}
    found = one_json(command("evaluate", document["recipe"], "--json"))
    assert (found["kl_nats"], found["bops"]) == (document["kl_nats"], document["bops"])


def test_quantize_says_where_the_recipe_is(command: Command, tmp_path: Path) -> None:
    write_photos(tmp_path / "photos")
    outcome = command("quantize", "--method", "rtn", "--bits", "w8a8s4", "--calib-images", 8, "--eval-data", "photos")
    assert outcome.status == 0, outcome.err
    first, accuracy, last = outcome.out.splitlines()
    assert first.startswith("rtn w8a8s4: KL ")
    assert accuracy.startswith("top-1 ")
    assert re.fullmatch(rf"top-1 .* %, full precision .* %, of {PHOTOS} images, labels by name", accuracy)
    assert last == "recipe: autoq-runs/vit_digits-rtn-w8a8s4/recipe.json"
    assert Recipe.load(last.removeprefix("recipe: ")).method == "rtn w8a8s4"


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (("--method", "adalogg", "--bits", "w4a4"), "Did you mean 'adalog'?"),
        (("--method", "aphqvit", "--bits", "w3a3"), "Did you mean 'aphq-vit'?"),
        (("--method", "aphq-vit", "--bits", "w3a3", "--importance", "fisher"), "is not one of aph, brecq, mse"),
        (("--method", "aphq-vit", "--bits", "w3a3", "--iterations", 0), "--iterations"),
        (("--method", "aphq-vit", "--bits", "w3a3", "--data", "absent/images"), "absent/images"),
        (("--method", "rtn", "--bits", "w3a3", "--on-disk"), "rtn has no option --on-disk; it has none"),
        (("--method", "igq-vit", "--bits", "w3a3", "--no-mlp"), "igq-vit has no option --mlp"),
        (("--method", "rtn", "--bits", "4/4"), "cannot read bits '4/4': write w4a4"),
        (("--method", "rtn", "--bits", "w4a0"), "0 is not between 1 and 16"),
        (("--method", "rtn", "--bits", "w4a4", "--ptf"), "rtn has no option --ptf"),
        (("--method", "igq-vit", "--bits", "w4a4", "--groups", 0), "--groups"),
        (("--method", "fq-vit", "--bits", "w8a8s4", "--observer", "emma"), "min_max, ema, percentile, omse"),
        (("--method", "rtn", "--bits", "w4a4", "--data", "absent/images"), "absent/images"),
        (("--method", "rtn", "--bits", "w4a4", "--out", "/proc/x"), "choose another --out"),
        (("--method", "rtn"), "--bits"),
    ],
)
def test_quantize(command: Command, options: tuple[object, ...], expected: str) -> None:
    assert expected in refusal(command, "quantize", *options)


def test_what_is_not_there_is_refused_before_the_model_is_loaded(command: Command, tmp_path: Path) -> None:
    method = ("quantize", "--method", "rtn", "--bits", "w4a4")
    (tmp_path / "file").write_text("")
    for options in (("--data", "absent"), ("--eval-data", "absent"), ("--out", "file/out")):
        for arguments in ((*method, *options), ("search", *options)):
            outcome = command(*arguments)
            assert (outcome.status, options[1].partition("/")[0] in outcome.err) == (2, True)
            assert "loading and tracing" not in outcome.err


def test_published_recipes_evaluate_as_they_were_calibrated(command: Command, tmp_path: Path) -> None:
    """Without their bank too: factors of LayerNorms, behind quantized layers, are found again."""
    out = tmp_path / "out"
    options = ("--method", "repq-vit", "--bits", "w4a4", "--protocol", "published", "--calib-images", 8, "--out", out)
    document = one_json(command("quantize", *options, "--json"))
    assert document["method"] == "repq-vit w4a4 (published)"
    with_bank = one_json(command("evaluate", document["recipe"], "--json"))
    (out / "bank").rename(tmp_path / "elsewhere")
    without = one_json(command("evaluate", document["recipe"], "--json"))
    assert with_bank["kl_nats"] == document["kl_nats"] == pytest.approx(without["kl_nats"], rel=1e-6)


def test_differences_of_protocols(command: Command) -> None:
    outcome = command("quantize", "--differences", "repq-vit")
    assert outcome.status == 0, outcome.err
    assert "2^b codes" in outcome.out
    assert command("quantize", "--differences", "rtn").out == "rtn has one protocol.\n"
    assert "Did you mean 'adalog'?" in refusal(command, "quantize", "--differences", "adalogg")
