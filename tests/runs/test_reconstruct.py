"""A recipe finished: what is written, that it stands on its own, goes on where it was stopped, and is refused."""

from __future__ import annotations

import csv
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open

from autoq.calibration.bank.files import read_bank
from autoq.errors import MethodError, RecipeError, RunDirectoryError
from autoq.events import BlockAdvanced, BlockFinished, Event, PhaseStarted
from autoq.methods import BitWidths, create_method
from autoq.recipe import Recipe
from autoq.reconstruction.settings import ReconstructionSettings
from autoq.runs.evaluate import evaluate_recipe
from autoq.runs.lock import LOCK_NAME, hold_directory
from autoq.runs.quantize import QuantizeSettings, quantize
from autoq.runs.recipe_work import make_checked
from autoq.runs.recipes import options_of
from autoq.runs.reconstruct import (
    ReconstructedRecipe,
    ReconstructSettings,
    reconstruct_recipe,
)
from tests.runs.small_run import PHOTOS, finished_run, interrupt_at, small_session, trace_once, write_photos

IMAGES = 12
BLOCKS = ["patch_embed.proj", "blocks.0", "blocks.1", "blocks.2", "blocks.3", "head"]
FILES = {LOCK_NAME, "recipe.json", "recipe.safetensors", "reconstruction.csv", "reconstruction.json"}


@pytest.fixture(autouse=True)
def _traced_once(monkeypatch: pytest.MonkeyPatch) -> None:
    trace_once(monkeypatch)


def make(folder: Path, name: str, bits: str = "w3a3") -> Path:
    if not (folder / "recipe.json").exists():
        quantize(
            small_session(), create_method(name), BitWidths.parse(bits), QuantizeSettings("digits", folder, IMAGES)
        )
    return folder / "recipe.json"


@pytest.fixture(scope="module")
def calibrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The recipe of a method that rescales LayerNorms."""
    return make(tmp_path_factory.mktemp("calibrated"), "repq-vit")


def settings(out: Path, iterations: int = 2, **changes: Any) -> ReconstructSettings:
    training = ReconstructionSettings(
        iterations=iterations, batch=8, importance_images=8, **changes.pop("training", {})
    )
    return ReconstructSettings(out=out, images=16, training=training, **changes)


def run(
    path: Path, wanted: ReconstructSettings, progress: Callable[[Event], None] = lambda _: None, **more: Any
) -> ReconstructedRecipe:
    return reconstruct_recipe(Recipe.load(path), wanted, progress=progress, **more)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("name", ["repq-vit", "igq-vit", "fq-vit", pytest.param("adalog", marks=pytest.mark.slow)])
def test_a_reconstructed_recipe_stands_on_its_own(name: str, tmp_path: Path) -> None:
    """Neither the bank nor the calibrated recipe is needed, whatever the schemes: integer operations included."""
    found = run(make(tmp_path / "calibrated", name), settings(tmp_path / "out"))
    assert {path.name for path in (tmp_path / "out").iterdir()} == FILES
    shutil.rmtree(tmp_path / "calibrated")
    loaded = Recipe.load(tmp_path / "out" / "recipe.json")
    assert loaded == found.recipe
    score = evaluate_recipe(loaded.located(tmp_path / "out")).score
    assert loaded.score is not None
    assert (score.kl_nats, score.sqnr_db, score.images) == (loaded.score.kl_nats, loaded.score.sqnr_db, IMAGES)
    replaced = {site for site, slot in small_session().model.operations.items() if slot.replacement is not None}
    assert bool(replaced) is (name == "fq-vit")


def test_scales_of_integer_operations_are_not_learned(tmp_path: Path) -> None:
    """Integer LayerNorms and softmaxes rest on them; rounding of weights is learned all the same."""
    calibrated = make(tmp_path / "calibrated", "fq-vit")
    run(calibrated, settings(tmp_path / "out", 4))
    content = read_bank(calibrated.parent / "bank")
    assert content is not None
    with safe_open(tmp_path / "out" / "recipe.safetensors", "pt") as file:
        learned = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    assert any(key.endswith(".codes") for key in learned)
    for (site, operand, _), solved in content.options.items():
        for name, value in solved.qparams.items():
            assert torch.equal(learned[f"{site}:{operand}.{name}"], value), (site, operand, name)


def test_a_searched_mixed_recipe(tmp_path: Path) -> None:
    found = run(finished_run() / "recipes" / "w4a4.json", settings(tmp_path))
    assert {config.scheme for _, _, config in options_of(found.recipe.sites)} == {"uniform", "adalog"}
    before = Recipe.load(finished_run() / "recipes" / "w4a4.json")
    assert (found.recipe.cost, found.recipe.sites) == (before.cost, before.sites)
    assert found.recipe.calibration == before.calibration
    assert found.recipe.score != before.score
    assert evaluate_recipe(found.recipe.located(tmp_path)).score.kl_nats == found.recipe.score.kl_nats  # type: ignore[union-attr]


def test_it_loses_less(calibrated: Path, tmp_path: Path) -> None:
    write_photos(tmp_path / "photos")
    found = run(calibrated, settings(tmp_path / "out", 20, eval_data=str(tmp_path / "photos"))).recipe
    before = Recipe.load(calibrated)
    assert before.score is not None
    assert found.score is not None
    assert found.score.kl_nats < before.score.kl_nats / 2
    assert found.score.labelled_images == PHOTOS
    assert found.score.metrics["top1_percent"] > 80
    assert found.content_hash != before.content_hash


def test_what_is_recorded(calibrated: Path, tmp_path: Path) -> None:
    found = run(calibrated, settings(tmp_path, blocks=("head", "blocks.1"), training={"seed": 3, "drop": 0.25}))
    reference = found.recipe.reconstruction
    assert reference is not None
    assert (reference.file, reference.data, reference.images, reference.seed) == ("recipe.safetensors", "digits", 16, 3)
    assert (reference.iterations, reference.importance, reference.blocks) == (2, "aph", ("blocks.1", "head"))
    assert reference.settings == {"batch": 8, "importance_images": 8, "drop": 0.25}
    with (tmp_path / "reconstruction.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["block"] for row in rows] == ["blocks.1", "head"]
    assert list(rows[0]) == ["block", "loss", "before", "after", "kept", "iterations", "seconds"]
    assert [row["loss"] for row in rows] == ["aph", "kl"]
    assert [float(row["before"]) for row in rows] == [report.before for report in found.reports]
    with safe_open(tmp_path / "recipe.safetensors", "pt") as file:
        learned = {key.partition(":")[0] for key in file.keys() if key.endswith(".codes")}  # noqa: SIM118
    assert learned
    assert all(site.startswith(("blocks.1", "head")) for site in learned)


@pytest.mark.parametrize("block", ["blocks.0", "head"])
def test_an_interrupted_one_goes_on_and_ends_the_same(calibrated: Path, tmp_path: Path, block: str) -> None:
    whole = run(calibrated, settings(tmp_path / "whole"))

    def in_the_middle(event: Event) -> bool:
        return isinstance(event, BlockAdvanced) and event.name == block

    with pytest.raises(KeyboardInterrupt):
        run(calibrated, settings(tmp_path / "out"), interrupt_at(in_the_middle))
    assert not (tmp_path / "out" / "recipe.json").exists()
    events: list[Event] = []
    resumed = run(calibrated, settings(tmp_path / "out"), events.append)
    trained = list(dict.fromkeys(event.name for event in events if isinstance(event, BlockAdvanced)))
    assert trained == BLOCKS[BLOCKS.index(block) :]
    assert [event.name for event in events if isinstance(event, BlockFinished)] == BLOCKS
    assert resumed.recipe == whole.recipe
    assert contents(tmp_path / "out").keys() == FILES
    for name in FILES - {"reconstruction.csv", LOCK_NAME}:  # which have times and a process
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name


def test_a_finished_one_is_only_measured_again(calibrated: Path, tmp_path: Path) -> None:
    first = run(calibrated, settings(tmp_path / "out"))
    before = contents(tmp_path / "out")
    write_photos(tmp_path / "photos")
    (tmp_path / "out" / "blocks").mkdir()  # as a kill leaves it in between
    events: list[Event] = []
    again = run(calibrated, settings(tmp_path / "out", eval_data=str(tmp_path / "photos")), events.append)
    assert not [event for event in events if isinstance(event, BlockAdvanced | BlockFinished)]
    assert "reconstruction" not in {event.phase for event in events if isinstance(event, PhaseStarted)}
    assert again.reports == first.reports
    assert first.recipe.score is not None
    assert again.recipe.score is not None
    assert again.recipe.score.kl_nats == first.recipe.score.kl_nats
    assert again.recipe.score.labelled_images == PHOTOS
    assert run(calibrated, settings(tmp_path / "out")) == first
    assert contents(tmp_path / "out") == before
    (tmp_path / "out" / "recipe.safetensors").unlink()
    assert run(calibrated, settings(tmp_path / "out")).recipe == first.recipe


def test_another_one_there_is_refused(calibrated: Path, tmp_path: Path) -> None:
    run(calibrated, settings(tmp_path / "out"))
    other = make(tmp_path / "other", "rtn")
    before = contents(tmp_path)
    for path, wanted, difference in (
        (calibrated, settings(tmp_path / "out", 3), r"iterations \(was 2, is 3\)"),
        (calibrated, settings(tmp_path / "out", blocks=("head",)), r"blocks \(was None, is \['head'\]\)"),
        (calibrated, settings(tmp_path / "out", training={"seed": 1}), "images_sha256"),
        (other, settings(tmp_path / "out"), "recipe_sha256"),
    ):
        with pytest.raises(
            RunDirectoryError, match=f"holds a reconstruction with another .*{difference}.*another --out"
        ):
            run(path, wanted)
    with pytest.raises(RunDirectoryError, match="holds another recipe; choose another --out"):
        run(calibrated, settings(other.parent))
    with pytest.raises(RunDirectoryError, match="holds a search; choose another --out"):
        run(calibrated, settings(finished_run()))
    assert contents(tmp_path) == before
    (tmp_path / "out" / "reconstruction.json").write_text("{")
    with pytest.raises(RunDirectoryError, match=r"reconstruction\.json' is damaged"):
        run(calibrated, settings(tmp_path / "out"))


def test_what_cannot_be_reconstructed(calibrated: Path, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"no block 'blocks\.11'\. Did you mean 'blocks\.1'"):
        run(calibrated, settings(tmp_path / "out", blocks=("blocks.11",)))
    assert not (tmp_path / "out").exists()
    run(calibrated, settings(tmp_path / "out", blocks=("head",)))
    with pytest.raises(RecipeError, match="reconstructed already: give the one that it was made from"):
        run(tmp_path / "out" / "recipe.json", settings(tmp_path / "again"))
    assert not (tmp_path / "again").exists()
    with pytest.raises(MethodError, match="batch of a reconstruction is 0"):
        make_checked(ReconstructionSettings, {"batch": 0})


def test_activations_on_disk_change_nothing(calibrated: Path, tmp_path: Path) -> None:
    some = ("blocks.3", "head")
    in_memory = run(calibrated, settings(tmp_path / "memory", blocks=some))
    assert run(calibrated, settings(tmp_path / "disk", blocks=some, on_disk=True)).recipe == in_memory.recipe


def test_a_recipe_written_by_hand_is_calibrated_on_the_data(calibrated: Path, tmp_path: Path) -> None:
    Recipe.load(calibrated).model_copy(update={"calibration": None, "score": None}).save(tmp_path / "mine.json")
    with pytest.raises(RecipeError, match="does not name its calibration images"):
        run(tmp_path / "mine.json", settings(tmp_path / "out"))
    found = run(tmp_path / "mine.json", settings(tmp_path / "out", data="digits", blocks=("head",))).recipe
    assert found.calibration is not None
    assert found.score is not None
    assert (found.calibration.data, found.calibration.images) == ("digits", found.score.images)
    assert evaluate_recipe(found.located(tmp_path / "out")).score.kl_nats == found.score.kl_nats


def test_progress(calibrated: Path, tmp_path: Path) -> None:
    events: list[Event] = []
    run(calibrated, settings(tmp_path, 3), events.append)
    phases = [event.phase for event in events if isinstance(event, PhaseStarted)]
    assert phases == ["model", "images", "reconstruction", "score"]
    steps = [event for event in events if isinstance(event, BlockAdvanced)]
    assert [(step.number, step.name, step.done) for step in steps] == [
        (number, name, done) for number, name in enumerate(BLOCKS, start=1) for done in (1, 2, 3)
    ]
    assert {(step.blocks, step.iterations) for step in steps} == {(6, 3)}
    table = [event for event in events if isinstance(event, BlockFinished)]
    assert [(each.number, each.name) for each in table] == list(enumerate(BLOCKS, start=1))
    assert json.loads((tmp_path / "reconstruction.json").read_text())["iterations"] == 3


def test_one_process_at_a_time(calibrated: Path, tmp_path: Path) -> None:
    wanted = settings(tmp_path / "out", blocks=("head",))
    with hold_directory(tmp_path / "out"), pytest.raises(RunDirectoryError, match=f"in use by process {os.getpid()}"):
        run(calibrated, wanted)
    assert contents(tmp_path / "out").keys() == {LOCK_NAME}

    def held(event: Event) -> None:
        if isinstance(event, BlockAdvanced):
            hold_directory(tmp_path / "out").__enter__()

    with pytest.raises(RunDirectoryError, match=f"in use by process {os.getpid()}"):
        run(calibrated, wanted, held)
    assert run(calibrated, wanted).recipe.score is not None


def test_images_given_as_an_object(tmp_path: Path) -> None:
    """A recipe that was calibrated on a tensor is scored on that tensor again."""
    session = small_session()
    images = session.calibration_images("digits", 16, 0).tensor
    method, bits = create_method("rtn"), BitWidths.parse("w3a3")
    recipe = quantize(session, method, bits, QuantizeSettings(images, tmp_path / "rtn", IMAGES))
    assert recipe.calibration is not None
    assert recipe.score is not None
    found = reconstruct_recipe(
        Recipe.load(tmp_path / "rtn" / "recipe.json"), settings(tmp_path / "out", data=images), session=session
    ).recipe
    assert found.calibration == recipe.calibration
    assert found.score is not None
    assert found.score.images == recipe.score.images == IMAGES
    assert found.reconstruction is not None
    assert (found.reconstruction.data, found.reconstruction.images) == (recipe.calibration.data, 16)
