"""The phases of a search, on what has been opened for it: deadlines, what is measured once, how a run is left."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from autoq.events import Event, PhaseStarted, Progress, TrialFinished, ignore
from autoq.optimization.executors.chunks import ChunkRunner
from autoq.optimization.executors.directory import DirectoryExecutor
from autoq.optimization.trials import UNIFORM, knee_trial, shown_trials
from autoq.recipe import Recipe
from autoq.runs.opening import GivenObjects, calibration_reference, open_bank, open_run
from autoq.runs.search.accuracy import trials_to_measure
from autoq.runs.search.clock import SearchClock
from autoq.runs.search.directory import SearchDirectory
from autoq.runs.search.phases import SearchRun, _resuming
from autoq.runs.search.recipes import RecipeWriter
from autoq.runs.search.record import MeasuredAccuracy, new_record
from autoq.scoring import Evaluator
from tests.optimization.executors.simulated import SimulatedSpecification
from tests.runs.small_run import PHOTOS, small_settings, trace_once

MADE_UP = MeasuredAccuracy.model_validate({"top1_percent": 12.5, "top5_percent": 50.0, "images": 24})


@pytest.fixture(autouse=True)
def _traced_once(monkeypatch: pytest.MonkeyPatch) -> None:
    trace_once(monkeypatch)


@contextmanager
def begun(folder: Path, progress: Progress = ignore, *, labelled: bool = True, **changes: Any) -> Iterator[SearchRun]:
    """A search of uniform recipes alone, as no time is left for others, that has not started."""
    settings = small_settings(folder, sensitivity="mse", **changes)
    directory = SearchDirectory(folder / "run")
    labels = settings.eval_data if labelled else None
    with open_run(directory, settings, progress=progress, eval_data=labels, hold_out=True) as opened:
        inputs, _ = opened
        session, bank = open_bank(inputs.session, inputs.images, settings, directory.bank, progress)
        fingerprints = {"bank_fingerprint": bank.fingerprint}
        calibration = calibration_reference(inputs.images, bank, inputs.scoring)
        record = new_record(settings, session, session.costs, inputs, fingerprints, None)
        yield SearchRun(
            inputs=inputs,
            loaded=session,
            bank=bank,
            directory=directory,
            progress=progress,
            costs=session.costs,
            writer=RecipeWriter(directory, session, bank, inputs.space, calibration, settings.reference, record.limits),
            record=record,
            is_searched=True,
            clock=SearchClock(time.monotonic(), 1000.0),
        )


def limit(run: SearchRun, seconds: float | None) -> None:
    run.clock = replace(run.clock, limit_seconds=seconds)


def test_accuracy_has_its_time_within_the_limit(tmp_path: Path) -> None:
    """What the result is told by is measured in any case; the rest is left out, and measured when there is time."""
    events: list[Event] = []
    with begun(tmp_path, events.append, trials=8) as run:
        run.is_searched = False
        limit(run, 1e-3)
        run.run()
        last = [event for event in events if isinstance(event, TrialFinished)][-1]
        assert last.seconds_after is not None
        assert last.seconds_after > 0
        best = min((t for t in run.trials if run.record.limits.admit(t.cost)), key=lambda t: t.score.kl_nats)
        front, _ = shown_trials(run.trials, run.record.limits)
        needed = {best.id, knee_trial(front).id, "w4a4", "w6a6"}
        assert run.record.accuracy.keys() == needed, "w6a6 to measure the time"
        everything = {trial.id for trial in front} | {"w3a3", "w4a4", "w6a6"}
        assert run.record.accuracy_left_out == len(everything - needed) > 0
        assert run.record.full_precision is not None
        limit(run, None)
        run.is_searched = True
        run.run()
        assert run.record.accuracy.keys() == everything
        assert run.record.accuracy_left_out == 0
    details = [event.detail for event in events if isinstance(event, PhaseStarted) and event.phase == "front"]
    assert details[0].startswith("about ")


@pytest.mark.parametrize("are_objects", [False, True])
def test_labelled_objects_are_measured_by_the_driver(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, are_objects: bool
) -> None:
    """Workers know images by their names alone."""
    shared: list[bool] = []

    def measure(runner: ChunkRunner, *_: object) -> Iterator[Any]:
        shared.append(runner.is_shared)
        return iter(())

    monkeypatch.setattr("autoq.runs.search.phases.accuracy_in_chunks", measure)
    jobs = DirectoryExecutor(SimulatedSpecification(), tmp_path / "jobs")  # whose workers never come
    monkeypatch.setattr(SearchRun, "_workers", lambda *_: jobs)
    monkeypatch.setattr(SearchRun, "_run_study", lambda *_: None)
    with begun(tmp_path) as run:
        given = GivenObjects(eval_data=object() if are_objects else None)
        run.inputs = replace(run.inputs, given=given)
        run.run()
    assert shared == [not are_objects]


def test_uniform_recipes_are_evaluated_and_measured_in_any_case(tmp_path: Path) -> None:
    events: list[Event] = []
    with begun(tmp_path, events.append) as run:
        run.run()
        assert {trial.origin for trial in run.trials} == {UNIFORM}
        assert run.record.state == "finished"
        assert run.record.full_precision is not None
        assert run.record.full_precision.images == PHOTOS
        assert run.record.accuracy.keys() == {trial.id for trial in run.trials}
        assert run.directory.require() == run.record, "what is known is written"
        assert {path.stem for path in run.directory.recipes.iterdir()} == {trial.id for trial in run.trials}
    phases = [event.phase for event in events if isinstance(event, PhaseStarted)]
    assert phases == ["model", "images", "calibration", "capture", "sensitivity", "search", "score", "front"]


def test_what_the_result_is_told_by_is_scored_on_the_calibration_images_too(tmp_path: Path) -> None:
    with begun(tmp_path) as run:
        run.run()
        inputs, known = run.inputs, run.record.calibration_kl_nats
        trials, needed = trials_to_measure(run.trials, run.record)
        assert known.keys() == {trial.id for trial in trials[:needed]}
        assert 1 <= len(known) < len(run.trials)
        trial = trials[0]
        evaluator = Evaluator(inputs.session.model, run.bank, inputs.images.tensor)
        assert known[trial.id] == evaluator.evaluate(inputs.space.sites_for(trial.assignment)).kl_nats
        score = Recipe.load(run.directory.recipe_path(trial.id)).score
        assert score is not None
        assert (score.calibration_kl_nats, score.kl_nats) == (known[trial.id], trial.score.kl_nats)
        assert (score.images, run.record.scoring_images, run.record.images) == (32, 32, 16)


def test_what_is_known_is_not_scored_again(tmp_path: Path) -> None:
    with begun(tmp_path) as run:
        run.keep(calibration_kl_nats={"w4a4": 12.5})
        run.run()
        assert run.record.calibration_kl_nats["w4a4"] == 12.5


def test_where_there_are_no_other_images_those_that_calibrate_score(tmp_path: Path) -> None:
    with begun(tmp_path, calib_images=240) as run:
        assert run.inputs.scoring is run.inputs.images
        assert run.inputs.held_out is None
        assert (run.record.images, run.record.scoring_images) == (240, 0)
        assert run.writer.calibration.scoring_images == 0


def test_what_was_measured_is_not_measured_again(tmp_path: Path) -> None:
    with begun(tmp_path) as run:
        run.keep(full_precision=MADE_UP, accuracy={"w4a4": MADE_UP})
        run.run()
        assert run.record.full_precision == run.record.accuracy["w4a4"] == MADE_UP
        assert run.record.accuracy["w6a6"] != MADE_UP


def test_without_labels_nothing_is_measured(tmp_path: Path) -> None:
    with begun(tmp_path, labelled=False) as run:
        run.run()
        assert run.record.full_precision is None
        assert run.record.accuracy == {}
        assert run.record.state == "finished"


def test_a_run_is_left_with_what_it_has(tmp_path: Path) -> None:
    with begun(tmp_path) as run:
        run.leave()
        assert run.directory.require().state == "interrupted"
        assert run.directory.require().seconds >= 1000, "earlier runs count"
        run.run()
        run.leave()
        assert run.directory.require().state == "finished"
        assert (run.directory.bank / "bank.json").exists()


def test_an_image_that_is_gone_does_not_cost_the_search(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def remove_a_photo(event: Event) -> None:
        if isinstance(event, PhaseStarted) and event.phase == "front":
            next((tmp_path / "photos").rglob("*.png")).unlink()

    with begun(tmp_path, remove_a_photo) as run:
        run.run()
    assert run.record.state == "finished"
    assert run.record.full_precision is not None
    assert "accuracy is not measured any further: cannot read image" in caplog.text


def test_the_knee_is_measured_without_being_improved(tmp_path: Path) -> None:
    with begun(tmp_path, eval_recipes=1) as run:
        run.run()
        front, _ = shown_trials(run.trials, run.record.limits)
        assert knee_trial(front).id in run.record.accuracy


def test_what_an_earlier_run_did_is_told() -> None:
    assert _resuming(0, 300) == ""
    assert _resuming(137, 300) == "resuming after 137 trials"
    assert _resuming(300, 300) == "300 trials are there: more with --trials"
