"""A method applied: what is written, that it can be measured again, resumed and refused."""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from autoq.calibration import CalibrationSettings
from autoq.errors import DataError, RunDirectoryError
from autoq.events import Event, PhaseAdvanced, PhaseStarted
from autoq.graph.insert import QuantizedModel
from autoq.methods import METHODS, BitWidths, MethodOptions, create_method
from autoq.recipe import Recipe
from autoq.runs.calibrated import CalibratedRecipe
from autoq.runs.directory import KINDS
from autoq.runs.evaluate import evaluate_recipe
from autoq.runs.images import CalibrationImages
from autoq.runs.lock import LOCK_NAME, hold_directory
from autoq.runs.quantize import QuantizeSettings, quantize
from autoq.runs.transforming import rescale_for
from tests.runs.small_run import PHOTOS, small_session, trace_once, write_photos

IMAGES = 12
CALIBRATED = [name for name, method in METHODS.items() if method.reconstruction is None]
FAST = ("rtn", "fq-vit", "repq-vit", "igq-vit")


def run(out: Path, name: str = "rtn", bits: str = "w4a4", progress: Callable[[Event], None] | None = None) -> Recipe:
    settings = QuantizeSettings("digits", out, IMAGES)
    return quantize(small_session(), create_method(name), BitWidths.parse(bits), settings, progress or (lambda _: None))


@pytest.fixture(autouse=True)
def _traced_once(monkeypatch: pytest.MonkeyPatch) -> None:
    trace_once(monkeypatch)


@pytest.mark.parametrize(
    "name", [name if name in FAST else pytest.param(name, marks=pytest.mark.slow) for name in CALIBRATED]
)
def test_a_recipe_reproduces_its_score_with_its_bank_and_without(
    name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    made = run(tmp_path / "made", name)
    loaded = Recipe.load(tmp_path / "made" / "recipe.json")
    assert loaded == made
    assert loaded.method == f"{name} w4a4"
    assert loaded.score is not None
    with caplog.at_level(logging.WARNING):
        found = evaluate_recipe(loaded.located(tmp_path / "made")).score
    assert not caplog.records
    assert (found.kl_nats, found.sqnr_db, found.images) == (loaded.score.kl_nats, loaded.score.sqnr_db, IMAGES)
    with caplog.at_level(logging.WARNING):
        assert evaluate_recipe(loaded.located(tmp_path / "nowhere")).score == found
    assert [record.message for record in caplog.records] == [
        "the recipe's bank is not beside it: solving it again from digits"
    ]


def test_methods_differ(tmp_path: Path) -> None:
    scores = {name: run(tmp_path / name, name).score for name in FAST}
    found = {name: score.kl_nats for name, score in scores.items() if score is not None}
    assert len(set(found.values())) == len(FAST)
    assert all(0 < kl < 2 for kl in found.values())


def test_eight_bits_lose_less_than_three(tmp_path: Path) -> None:
    for name in FAST:
        wide, narrow = (run(tmp_path / f"{name}-{bits}", name, bits).score for bits in ("w8a8", "w3a3"))
        assert wide is not None
        assert narrow is not None
        assert wide.kl_nats < narrow.kl_nats / 3, name


def test_accuracy_where_there_are_labels(tmp_path: Path) -> None:
    write_photos(tmp_path / "photos")
    settings = QuantizeSettings("digits", tmp_path / "out", IMAGES, eval_data=str(tmp_path / "photos"))
    score = quantize(small_session(), create_method("rtn"), BitWidths.parse("w8a8"), settings).score
    assert score is not None
    assert score.labelled_images == PHOTOS
    assert score.metrics["top1_percent"] > 90


def test_fully_quantized_runs_in_integers(tmp_path: Path) -> None:
    session = small_session()
    sites = run(tmp_path / "out", "fq-vit", "w8a8s4").sites
    assert sites["blocks.0.norm1"]["input"].scheme == "power_of_two_factor"
    assert sites["blocks.0.attn.av"]["lhs"].bits == 4
    replaced = {site for site, slot in session.model.operations.items() if slot.replacement is not None}
    assert replaced == session.model.operations.keys()
    session.model.remove_()
    assert all(slot.replacement is None for slot in session.model.operations.values())


def test_full_precision_is_not_touched_by_reparameterization(tmp_path: Path) -> None:
    session = small_session()
    images = torch.randn(3, *session.loaded.input_size, generator=torch.Generator().manual_seed(0))
    before = session.traced.graph_module(images)
    norms = run(tmp_path / "out", "repq-vit").reparameterized
    assert set(norms.values()) == {4}
    assert torch.equal(session.traced.graph_module(images), before)
    rescaled = rescale_for(session, norms, lambda: CalibrationImages("noise", 0, images), CalibrationSettings())
    assert not torch.equal(rescaled.traced.weight("blocks.0.attn.qkv"), session.traced.weight("blocks.0.attn.qkv"))
    torch.testing.assert_close(rescaled.traced.graph_module(images), before, rtol=1e-3, atol=1e-4)


def test_a_killed_run_goes_on(tmp_path: Path) -> None:
    def interrupt(event: Event) -> None:
        if isinstance(event, PhaseAdvanced) and event.phase == "calibration" and event.done >= 20:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "out", "igq-vit", progress=interrupt)
    kept = json.loads((tmp_path / "out" / "bank" / "bank.json").read_text())["entries"]
    assert 20 <= len(kept) < 40
    assert not (tmp_path / "out" / "recipe.json").exists()
    advanced: list[int] = []

    def watch(event: Event) -> None:
        if isinstance(event, PhaseAdvanced) and event.phase == "calibration":
            advanced.append(event.done)

    resumed = run(tmp_path / "out", "igq-vit", progress=watch)
    assert advanced[0] > len(kept) - 1
    assert resumed == run(tmp_path / "whole", "igq-vit")


def test_phases_are_reported(tmp_path: Path) -> None:
    events: list[Event] = []
    run(tmp_path / "out", "repq-vit", progress=events.append)
    phases = [event.phase for event in events if isinstance(event, PhaseStarted)]
    assert phases == ["images", "capture", "calibration", "capture", "score"]


def test_another_bank_there_is_refused(tmp_path: Path) -> None:
    run(tmp_path, "rtn")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(RunDirectoryError, match=r"is stale: it differs in .*; delete it or use another --out"):
        run(tmp_path, "repq-vit")
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_same_observer_at_other_bits_shares_a_bank(tmp_path: Path) -> None:
    """Ranges by the operand alone do not depend on the recipe, so a bank may serve several."""
    run(tmp_path, "rtn", "w4a4")
    shutil.move(tmp_path / "recipe.json", tmp_path / "four.json")
    run(tmp_path, "rtn", "w8a8")
    four = Recipe.load(tmp_path / "four.json")
    assert four.score is not None
    assert evaluate_recipe(four.located(tmp_path)).score.kl_nats == four.score.kl_nats


def test_where_nothing_can_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunDirectoryError, match=r"cannot write to directory .*choose another --out"):
        run(tmp_path / "file" / "out")
    settings = QuantizeSettings("absent/images", tmp_path / "out")
    with pytest.raises(DataError, match="absent/images"):
        quantize(small_session(), create_method("rtn"), BitWidths.parse("w4a4"), settings)
    assert not (tmp_path / "out").exists()


def test_options_reach_the_recipe(tmp_path: Path) -> None:
    method = create_method("igq-vit", MethodOptions(groups=2, observer="mse"))
    settings = QuantizeSettings("digits", tmp_path / "out", IMAGES, seed=3)
    recipe = quantize(small_session(), method, BitWidths.parse("w4a4"), settings)
    assert recipe.sites["blocks.0.attn.qkv"]["input"].groups == 2
    assert recipe.calibration is not None
    assert (recipe.calibration.observer, recipe.calibration.seed) == ("mse", 3)


class _ReachedError(Exception):
    """Blocks would be trained now."""


@pytest.mark.slow
def test_blocks_come_close_to_the_given_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And not to the one with ReLU whose MLPs were trained before."""
    session, aims = small_session(), []

    def trained(calibrated: CalibratedRecipe, *_: object, targets: QuantizedModel | None, **__: object) -> None:
        assert calibrated.session.model is not session.model
        aims.append(targets)
        raise _ReachedError

    monkeypatch.setattr("autoq.runs.quantize.reconstruct_calibrated", trained)
    method = create_method("aphq-vit", MethodOptions(iterations=1))
    with pytest.raises(_ReachedError):
        quantize(session, method, BitWidths.parse("w4a4"), QuantizeSettings("digits", tmp_path / "out", IMAGES))
    assert aims == [session.model]


@pytest.mark.parametrize("name", ["rtn", "aphq-vit"])
def test_one_process_at_a_time(tmp_path: Path, name: str) -> None:
    with hold_directory(tmp_path / "out"), pytest.raises(RunDirectoryError, match=f"in use by process {os.getpid()}"):
        run(tmp_path / "out", name)
    assert [path.name for path in (tmp_path / "out").iterdir()] == [LOCK_NAME]


@pytest.mark.parametrize(("file", "what"), KINDS.items())
def test_directories_of_runs_are_refused(tmp_path: Path, file: str, what: str) -> None:
    (tmp_path / file).write_text("{}")
    with pytest.raises(RunDirectoryError, match=f"holds {what}; choose another --out"):
        run(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [file]
