"""Published methods at the width of the budget: which, what is left of them, and what is not done again."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest

from autoq.calibration import CalibrationSettings
from autoq.errors import CalibrationError, RunDirectoryError
from autoq.events import Event, PhaseAdvanced, PhaseStarted
from autoq.exporters.pick import pick
from autoq.graph.insert import QuantizedModel
from autoq.methods import BaseMethod
from autoq.optimization.executors.chunks import ChunkRunner
from autoq.optimization.space import load_space, resolve_space
from autoq.recipe import Recipe
from autoq.report.from_run import summarize
from autoq.runs.calibrated import CalibratedRecipe
from autoq.runs.evaluate import evaluate_recipe
from autoq.runs.opening import RunInputs
from autoq.runs.search import baselines
from autoq.runs.search.baselines import measure_baselines, published_methods
from autoq.runs.search.record import BaselineEntry, RunRecord
from autoq.runs.search.run import run_search
from autoq.runs.search.settings import SearchSettings
from autoq.runs.search.state import SearchState
from autoq.runs.session import Session
from autoq.scoring import Evaluator, measure_accuracy
from autoq.scoring.outputs import predict
from autoq.tasks import Outputs
from tests.runs.search.records import make_record
from tests.runs.search.states import make_state
from tests.runs.small_run import small_session, small_settings, trace_once, write_photos

FAST = ["rtn", "fq-vit", "repq-vit", "igq-vit"]


def inputs_of(labels: Path | None = None) -> RunInputs:
    session = small_session()
    images, scoring = session.calibration_images("digits", 44, 0).held_out(12)
    labelled = None if labels is None else session.labelled_images(str(labels))
    space = resolve_space(load_space("bits_only"), session.traced.sites)
    return RunInputs(session, space, "", images, scoring, labelled)


def state_of(inputs: RunInputs, folder: Path) -> SearchState:
    session, images = inputs.session, inputs.images
    bank = session.bank(lambda: images, images.sha256, CalibrationSettings())
    changes = {"scoring": inputs.scoring, "open_labelled": lambda: inputs.labelled}
    return make_state(session, images, bank, folder, **changes)


def measured(
    folder: Path, inputs: RunInputs, record: RunRecord, methods: list[str], monkeypatch: pytest.MonkeyPatch
) -> dict[str, BaselineEntry]:
    """What is known after the methods of these names were asked for."""
    monkeypatch.setattr(
        baselines, "published_methods", lambda _: [m for m in published_methods("published") if m.name in methods]
    )
    found = dict(record.baselines)
    runner = ChunkRunner(state_of(inputs, folder))
    labelled = inputs.labelled is not None
    measure_baselines(runner, inputs.session.costs, record, found.update, is_labelled=labelled)
    return found


def test_which_methods_are_compared_with() -> None:
    assert [method.name for method in published_methods("published")] == FAST
    assert {method.name for method in published_methods("all")} == {*FAST, "ptq4vit", "adalog"}, "aphq-vit trains"
    assert published_methods("uniform") == []


def test_a_method_is_calibrated_as_published_and_scored_like_a_trial(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_photos(tmp_path / "photos")
    inputs, record = inputs_of(tmp_path / "photos"), make_record(baseline_bits=(4, 6))
    found = measured(tmp_path / "run", inputs, record, ["rtn"], monkeypatch)
    entry = found["rtn-w4a6"]
    assert (entry.label, entry.images) == ("rtn 4/6", 12), "12 calibrate, of at most 32"
    recipe = Recipe.load(tmp_path / "run" / entry.recipe)
    assert entry.cost == recipe.cost == small_session().costs.cost(recipe.sites).record()
    assert {name: c.bits for name, c in recipe.sites["patch_embed.proj"].items()} == {"input": 8, "weight": 4}
    assert {name: c.bits for name, c in recipe.sites["head"].items()} == {"input": 6, "weight": 4}
    again = evaluate_recipe(recipe)
    assert again.score.kl_nats == entry.score.calibration_kl_nats, "the recipe and its bank are whole"
    session = small_session()
    bank = session.bank(lambda: inputs.images, inputs.images.sha256, published_methods("published")[0].settings(0))
    score = Evaluator(session.model, bank, inputs.scoring.tensor).evaluate(recipe.sites)
    assert (entry.score.kl_nats, entry.score.images) == (score.kl_nats, 32)
    assert entry.score.labelled_images == 24
    assert entry.score.metrics["top1_percent"] > 50


def test_what_is_known_is_not_measured_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inputs, record = inputs_of(), make_record(baseline_bits=(4, 4))
    first = measured(tmp_path / "run", inputs, record, ["rtn"], monkeypatch)
    known = {"rtn-w4a4": first["rtn-w4a4"].model_copy(update={"images": 5})}
    again = record.model_copy(update={"baselines": known})
    assert measured(tmp_path / "run", inputs, again, ["rtn"], monkeypatch) == known
    write_photos(tmp_path / "photos")
    labelled = measured(tmp_path / "run", inputs_of(tmp_path / "photos"), again, ["rtn"], monkeypatch)["rtn-w4a4"]
    assert labelled.images == 12, "there are labels now"
    assert labelled.score.kl_nats == first["rtn-w4a4"].score.kl_nats
    assert labelled.without_accuracy().score == first["rtn-w4a4"].score


def test_a_method_that_cannot_be_had_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    calibrate = baselines.calibrate_method

    def fail_for_rtn(session: Session, method: BaseMethod, *arguments: Any) -> CalibratedRecipe:
        if method.name == "rtn":
            raise CalibrationError("no such operand")
        return calibrate(session, method, *arguments)

    monkeypatch.setattr(baselines, "calibrate_method", fail_for_rtn)
    with caplog.at_level(logging.WARNING):
        found = measured(tmp_path, inputs_of(), make_record(baseline_bits=(4, 4)), ["rtn", "repq-vit"], monkeypatch)
    assert list(found) == ["repq-vit-w4a4"]
    assert "rtn-w4a4 cannot be compared with: no such operand" in caplog.text


def test_full_precision_runs_once_for_all_methods(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_photos(tmp_path / "photos")
    inputs, full_runs = inputs_of(tmp_path / "photos"), 0
    assert inputs.labelled is not None
    batches = sum(1 for _ in inputs.labelled.batches())

    def counted(model: QuantizedModel, *arguments: Any) -> Outputs:
        nonlocal full_runs
        full_runs += not model.configuration()
        return predict(model, *arguments)

    monkeypatch.setattr("autoq.scoring.accuracy.predict", counted)
    found = measured(tmp_path, inputs, make_record(baseline_bits=(4, 4)), ["rtn", "repq-vit"], monkeypatch)
    assert full_runs == batches
    inputs.session.model.remove_()
    known = [entry.score.full_precision for entry in found.values()]
    assert known[0] == known[1] == measure_accuracy(inputs.session.model, inputs.labelled.batches()).metrics
    assert found["rtn-w4a4"].score.labelled_kl_nats != found["repq-vit-w4a4"].score.labelled_kl_nats


@pytest.mark.parametrize("changes", [{"baseline_bits": None}, {"settings": SearchSettings(baselines="uniform")}])
def test_nothing_is_said_where_there_is_nothing_to_compare_with(tmp_path: Path, changes: dict[str, object]) -> None:
    record, events = make_record(**({"baseline_bits": (4, 4)} | changes)), list[Event]()
    runner = ChunkRunner(state_of(inputs_of(), tmp_path / "run"))
    measure_baselines(runner, small_session().costs, record, lambda _: None, progress=events.append)
    assert events == []
    assert not (tmp_path / "run").exists()


def test_a_search_compares_with_published_methods(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trace_once(monkeypatch)
    monkeypatch.setattr(
        baselines, "published_methods", lambda _: [m for m in published_methods("all") if m.name in ("rtn", "repq-vit")]
    )
    settings, events = small_settings(tmp_path, baselines="published", trials=6), list[Event]()
    run_search(settings, tmp_path / "run", events.append)
    assert PhaseStarted("baselines", 2, "rtn, repq-vit") in events
    assert [event.done for event in events if isinstance(event, PhaseAdvanced) and event.phase == "baselines"] == [1, 2]
    summary = summarize(tmp_path / "run")
    assert [point.label for point in summary.published] == ["rtn 4/4", "repq-vit 4/4"]
    assert len(summary.points) == 6, "they are no trials"
    assert all(point.metric is not None and point.recipe is not None for point in summary.published)
    found = pick(tmp_path / "run", "rtn-w4a4")
    assert (found.recipe.method, found.version) == ("rtn w4a4", "published")
    with pytest.raises(RunDirectoryError, match="published method's recipe and is not finished: leave the version out"):
        pick(tmp_path / "run", "rtn-w4a4", version="finished")
    repq = pick(tmp_path / "run", "repq-vit-w4a4").recipe
    assert repq.reparameterized, "of the model as it was loaded"
    baseline = min((p for p in (*summary.published, *summary.uniform) if "4" in p.label), key=lambda p: p.kl_nats)
    assert summary.baseline == baseline
