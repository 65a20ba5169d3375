"""Wrong input: one line that says what to do, exit status 2, and nothing left behind."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from autoq.recipe import Recipe
from tests.cli.command import Command, Outcome
from tests.runs.small_run import SPACE, finished_run


@pytest.fixture(scope="module")
def run() -> Path:
    return finished_run()


@pytest.fixture(autouse=True)
def _in_its_own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def listing(folder: Path) -> dict[str, bytes | None]:
    return {str(path): path.read_bytes() if path.is_file() else None for path in sorted(folder.rglob("*"))}


def refusal(command: Command, *arguments: object, status: int = 2) -> str:
    """The one line of complaint, after checking that nothing was written."""
    before = listing(Path())
    outcome: Outcome = command(*arguments)
    assert (outcome.status, outcome.out) == (status, ""), outcome.err
    assert len(outcome.complaints) == 1, outcome.err
    assert outcome.complaints[0].startswith("autoq: ")
    assert listing(Path()) == before, "something was written"
    return outcome.complaints[0]


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


def test_study_files(command: Command, tmp_path: Path) -> None:
    (tmp_path / "study.toml").write_text("trails = 3\n")
    message = refusal(command, "search", "study.toml")
    assert "study 'study.toml': unknown key 'trails'. Did you mean 'trials'?" in message
    assert "cannot read study 'absent.toml': No such file" in refusal(command, "search", "absent.toml")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (
            ["search", "--sampler", "tpa"],
            "tpe, random, uniform. Did you mean 'tpe'?",
        ),
        (["search", "--observer", "mze"], "observer: unknown observer 'mze'; there are mse, min_max"),
        (["search", "--trials", "0"], "trials: Input should be greater than or equal to 1 (got 0)"),
        (["search", "--trials", "many"], "'--trials'"),
        (["search", "--time-limit", "soon"], "cannot read time limit 'soon': write it as 90s, 10m or 1.5h"),
        (["search", "--time-limit", "0s"], "time_limit_seconds"),
        (["search", "--seed", "-1"], "seed"),
        (
            ["search", "--proxy", "kll"],
            "proxy: unknown proxy 'kll'; there are kl, fisher, aph, mse, agreement. Did you mean 'kl'?",
        ),
        (["search", "--sensitivity", "fischer"], "Did you mean 'fisher'?"),
        (["search", "--calib-images", "0"], "calib_images"),
        (["search", "--budget-bop", "w4a4"], "--budget-bops"),
        (["search", "a.toml", "b.toml"], "b.toml"),
        (["serch"], "search"),
        (["evaluate"], "RECIPE"),
        (["export", "."], "--output"),
    ],
)
def test_usage(command: Command, arguments: list[str], expected: str) -> None:
    assert expected in refusal(command, *arguments)


def test_devices(plain_command: Command, run: Path) -> None:
    assert "cannot use device 'tpu9'" in refusal(plain_command, "search", "--device", "tpu9")
    good = run / "recipes" / "w4a4.json"
    assert "cannot use device 'tpu9'" in refusal(plain_command, "reconstruct", good, "--device", "tpu9", "--out", "x")


def test_run_directories(command: Command, tmp_path: Path, run: Path) -> None:
    (tmp_path / "file").write_text("mine")
    assert "cannot write to directory 'file'" in refusal(command, "search", "--out", "file")
    message = refusal(command, "search", "--out", run)
    assert f"{str(run)!r} holds a search with another " in message
    for name in ("report", "export"):
        more = ["-o", "x"] if name == "export" else []
        assert "'absent' is no run directory" in refusal(command, name, "absent", *more)
        assert "'.' is no run directory" in refusal(command, name, ".", *more)


def test_exports(command: Command, run: Path) -> None:
    assert "Did you mean 'knee'?" in refusal(command, "export", run, "--pick", "kne", "-o", "x")
    assert "the cheapest is w3a3" in refusal(command, "export", run, "--pick", "1M", "-o", "x")
    message = refusal(command, "export", run, "--format", "recip", "-o", "x")
    assert "unknown format 'recip'" in message
    assert "Did you mean 'recipe'?" in message
    assert "cannot write 'absent/x': No such file" in refusal(command, "export", run, "-o", "absent/x")


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


def test_the_unexpected_is_one_line_too(command: Command, monkeypatch: pytest.MonkeyPatch, run: Path) -> None:
    def fail(*_: object) -> None:
        raise ZeroDivisionError("division\nby zero")

    monkeypatch.setattr("autoq.runs.evaluate.evaluate_recipe", fail)
    message = refusal(command, "evaluate", run / "recipes" / "w4a4.json", status=1)
    assert message == "autoq: unexpected ZeroDivisionError: division by zero (run again with `autoq -v` for details)"


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (("--method", "adalogg", "--bits", "w4a4"), "Did you mean 'adalog'?"),
        (("--method", "aphqvit", "--bits", "w3a3"), "Did you mean 'aphq-vit'?"),
        (("--method", "aphq-vit", "--bits", "w3a3", "--importance", "fisher"), "is not one of aph, brecq, mse"),
        (("--method", "aphq-vit", "--bits", "w3a3", "--iterations", 0), "--iterations"),
        (("--method", "aphq-vit", "--bits", "w3a3", "--data", "absent/images"), "absent/images"),
        (("--method", "repq-vit", "--bits", "w3a3", "--on-disk"), "repq-vit has no option --on-disk; it has none"),
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


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (("--importance", "fisher"), "importance of a reconstruction is 'fisher': it must be aph or brecq or mse"),
        (("--iterations", 0), "--iterations"),
        (("--batch", 0), "--batch"),
        (("--images", 0), "--images"),
        (("--blocks", "blocks.0,blocks.11"), "no block 'blocks.11'. Did you mean 'blocks.1'?"),
        (("--data", "absent/images"), "absent/images"),
        (("--eval-data", "absent/images"), "absent/images"),
        (("--calib-data", "absent/images"), "absent/images"),
        (("--out", "/proc/x"), "choose another --out"),
        (("--iteration", 3), "--iterations"),
    ],
)
def test_reconstruct(command: Command, run: Path, options: tuple[object, ...], expected: str) -> None:
    out = () if "--out" in options else ("--out", "out")
    assert expected in refusal(command, "reconstruct", run / "recipes" / "w4a4.json", *options, *out)


def test_recipes_that_cannot_be_reconstructed(command: Command, run: Path, tmp_path: Path) -> None:
    good = run / "recipes" / "w4a4.json"
    assert "cannot read recipe 'absent.json'" in refusal(command, "reconstruct", "absent.json")
    assert "RECIPE" in refusal(command, "reconstruct")
    few = ("--images", 8, "--iterations", 1, "--blocks", "head", "--out", "out")
    assert command("reconstruct", good, *few).status == 0
    message = refusal(command, "reconstruct", "out/recipe.json", "--out", "again")
    assert "reconstructed already: give the calibrated one" in message
    message = refusal(command, "reconstruct", good, *few, "--iterations", 2)
    assert "'out' holds a reconstruction with another iterations (was 1, is 2)" in message
    assert "holds a search" in refusal(command, "reconstruct", good, "--out", run)
    weights = tmp_path / "out" / "recipe.safetensors"
    weights.unlink()
    message = refusal(command, "evaluate", "out/recipe.json")
    assert message.startswith("autoq: cannot read 'out/recipe.safetensors'")
    assert message.endswith("it is missing")
    weights.write_bytes(b"\0" * 100)
    message = refusal(command, "evaluate", "out/recipe.json")
    assert "'out/recipe.safetensors' does not hold reconstructed weights" in message
