"""``autoq reconstruct`` and the method that does it by itself: what is printed, killed runs, fresh processes."""

from __future__ import annotations

import csv
import shutil
import signal
import subprocess
import threading
from pathlib import Path

import pytest

from autoq.methods import BitWidths, create_method
from autoq.recipe import Recipe
from autoq.runs.quantize import QuantizeSettings, quantize
from tests.cli.command import Command, environment, in_a_process, one_json, process_arguments, refusal
from tests.runs.small_run import PHOTOS, finished_run, small_session, write_photos

QUICK = ("--images", 16, "--batch", 8, "--iterations", 3)


@pytest.fixture(scope="module")
def calibrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a calibrated recipe, not to be written to."""
    out = tmp_path_factory.mktemp("calibrated") / "run"
    method, settings = create_method("repq-vit"), QuantizeSettings("digits", out, 12)
    quantize(small_session(), method, BitWidths.parse("w3a3"), settings)
    return out


@pytest.fixture
def recipe(calibrated: Path, tmp_path: Path) -> Path:
    """A calibrated recipe with its bank."""
    shutil.copytree(calibrated, tmp_path / "my run")
    return tmp_path / "my run" / "recipe.json"


def test_json(command: Command, recipe: Path, tmp_path: Path) -> None:
    write_photos(tmp_path / "photos")
    options = (*QUICK, "--eval-data", tmp_path / "photos", "--out", tmp_path / "out")
    document = one_json(command("reconstruct", recipe, *options, "--json"))
    assert document["out"] == str(tmp_path / "out")
    assert document["recipe"] == str(tmp_path / "out" / "recipe.json")
    written = Recipe.load(document["recipe"])
    assert written.cost is not None
    assert written.score is not None
    assert (document["bops"], document["kl_nats"]) == (written.cost.bops, written.score.kl_nats)
    assert document["labelled_images"] == PHOTOS
    with (tmp_path / "out" / "reconstruction.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [{key: str(value) for key, value in block.items()} for block in document["blocks"]] == rows
    assert one_json(command("reconstruct", recipe, *options, "--json")) == document, "nothing is done twice"


def test_for_people(command: Command, recipe: Path) -> None:
    """Without ``--out``: a folder beside the recipe."""
    outcome = command("reconstruct", recipe, *QUICK, "--blocks", "blocks.0, head")
    assert (outcome.status, outcome.complaints) == (0, [])
    before, out = Recipe.load(recipe), recipe.parent / "recipe-reconstructed"
    after = Recipe.load(out / "recipe.json")
    assert after.reconstruction is not None
    assert after.reconstruction.blocks == ("blocks.0", "head")
    headline, path = outcome.out.splitlines()
    assert before.score is not None
    assert headline.startswith(f"KL {before.score.kl_nats:#.2g} -> ")
    assert headline.endswith(" nats over 12 images, 31.5 M BOPs")
    assert path == f"recipe: {out / 'recipe.json'}"
    lines = [line for line in outcome.err.splitlines() if line.startswith("autoq: reconstructing blocks")]
    assert lines[0].startswith("autoq: reconstructing blocks (2): 16 images of digits [")
    assert lines[1].startswith("autoq: reconstructing blocks 1/2: blocks.0: aph loss ")
    assert lines[2].startswith("autoq: reconstructing blocks 2/2: head: kl loss ")
    assert not [line for line in outcome.err.splitlines() if "calibrating" in line], "its bank is beside it"


def test_evaluate_measures_it_again(command: Command, recipe: Path, tmp_path: Path) -> None:
    assert command("reconstruct", recipe, *QUICK, "--out", tmp_path / "out").status == 0
    document = one_json(command("evaluate", tmp_path / "out" / "recipe.json", "--json"))
    score = Recipe.load(tmp_path / "out" / "recipe.json").score
    assert score is not None
    assert (document["kl_nats"], document["images"]) == (score.kl_nats, 12)


@pytest.mark.slow
def test_evaluate_in_a_process_of_its_own(command: Command, recipe: Path, tmp_path: Path) -> None:
    assert command("reconstruct", recipe, *QUICK, "--device", "cpu", "--out", tmp_path / "out").status == 0
    score = Recipe.load(tmp_path / "out" / "recipe.json").score
    assert score is not None
    outcome = in_a_process("evaluate", "out/recipe.json", "--json", "--device", "cpu", cwd=tmp_path)
    document = one_json(outcome)
    fields = ("kl_nats", "agreement_percent", "sqnr_db", "images")
    assert {name: document[name] for name in fields} == score.model_dump(include=set(fields))


def test_a_recipe_of_a_run(command: Command, tmp_path: Path) -> None:
    outcome = command("reconstruct", finished_run() / "recipes" / "w4a4.json", *QUICK, "--out", tmp_path / "out")
    assert (outcome.status, outcome.complaints) == (0, [])
    assert command("evaluate", tmp_path / "out" / "recipe.json").status == 0


def test_ctrl_c_says_how_to_go_on(
    command: Command, recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("autoq.runs.reconstruct.reconstruct_calibrated", interrupt)
    outcome = command("reconstruct", recipe, *QUICK, "--out", tmp_path / "out")
    assert outcome.status == 130
    assert outcome.complaints == [
        f"autoq: interrupted; run the same command to resume: autoq reconstruct '{recipe}' --images 16 --batch 8 "
        f"--iterations 3 --out {tmp_path / 'out'}"
    ]


@pytest.mark.slow
@pytest.mark.parametrize("block", ["1/6", "4/6"])
def test_kill_9(command: Command, recipe: Path, tmp_path: Path, block: str) -> None:
    """Finished blocks are kept; the end is that of a run that was not killed, to the last bit."""
    arguments = ("reconstruct", recipe, *QUICK[:-1], 12, "--device", "cpu", "--out")
    process = subprocess.Popen(
        process_arguments(*arguments, tmp_path / "out"), env=environment(), stderr=subprocess.PIPE, text=True
    )
    watchdog = threading.Timer(120, process.kill)
    watchdog.start()
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith(f"autoq: reconstructing blocks {block}: ") and "batch loss" not in line:
            process.kill()
            break
    process.communicate()
    watchdog.cancel()
    assert process.returncode == -signal.SIGKILL
    assert not (tmp_path / "out" / "recipe.json").exists()
    kept = list((tmp_path / "out" / "blocks").glob("[!.]*.safetensors"))
    assert int(block[0]) <= len(kept) < 6
    resumed = command(*arguments, tmp_path / "out")
    assert (resumed.status, resumed.complaints) == (0, [])
    whole = command(*arguments, tmp_path / "whole")
    assert whole.status == 0
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == sorted(path.name for path in (tmp_path / "whole").iterdir())
    for name in ("recipe.json", "recipe.safetensors", "reconstruction.json"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name


@pytest.mark.slow
def test_aphq_vit(plain_command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The whole method by one command, on a folder name relative to where it was called."""
    monkeypatch.chdir(tmp_path)
    options = ("--bits", "w3a3", "--calib-images", 12, "--iterations", 2, "--device", "cpu")
    document = one_json(plain_command("quantize", "--method", "aphq-vit", *options, "--json"))
    out = Path("autoq-runs/vit_digits-aphq-vit-w3a3")
    assert document["out"] == str(out)
    assert document["method"] == "aphq-vit w3a3"
    assert Recipe.load(out / "recipe.json").model.name == f"local-dir:{out}/model"
    (tmp_path / "elsewhere").mkdir()
    outcome = in_a_process(
        "evaluate", tmp_path / out / "recipe.json", "--json", "--device", "cpu", cwd=tmp_path / "elsewhere"
    )
    assert one_json(outcome)["kl_nats"] == document["kl_nats"]


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
    assert "reconstructed already: give the one that it was made from" in message
    message = refusal(command, "reconstruct", good, *few, "--iterations", 2)
    assert "'out' holds a reconstruction with another iterations (was 1, is 2)" in message
    assert "holds a search" in refusal(command, "reconstruct", good, "--out", run)
    weights = tmp_path / "out" / "recipe.safetensors"
    weights.unlink()
    message = refusal(command, "evaluate", "out/recipe.json")
    assert message.startswith("autoq: cannot read 'out/recipe.safetensors'")
    assert message.endswith("it is missing.")
    weights.write_bytes(b"\0" * 100)
    message = refusal(command, "evaluate", "out/recipe.json")
    assert "'out/recipe.safetensors' does not hold reconstructed weights" in message
