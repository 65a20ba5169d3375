"""The recipes of a search in its directory: which are written, what they say, and which are removed."""

from __future__ import annotations

from pathlib import Path

import pytest

from autoq.optimization.space import load_space, resolve_space
from autoq.optimization.storage import load_trials
from autoq.optimization.trials import EvaluatedTrial, evaluated_trials, shown_trials
from autoq.recipe import Recipe
from autoq.runs.opening import calibration_reference, open_bank
from autoq.runs.search.directory import STUDY_NAME, SearchDirectory
from autoq.runs.search.recipes import RecipeWriter
from autoq.runs.search.record import MeasuredAccuracy
from tests.runs.small_run import finished_run, small_session

ACCURACY = MeasuredAccuracy.model_validate({"top1_percent": 12.5, "top5_percent": 50.0, "images": 24})


@pytest.fixture
def writer(tmp_path: Path) -> RecipeWriter:
    """Writes into an empty directory, with the bank of a finished search."""
    record = SearchDirectory(finished_run()).require()
    images = small_session().calibration_images("digits", record.images, record.settings.seed)
    session, bank = open_bank(small_session(), images, record.settings, finished_run() / "bank")
    space = resolve_space(load_space(record.settings.space), session.traced.sites)
    directory = SearchDirectory(tmp_path / "run")
    directory.create()
    calibration = calibration_reference(images, bank)
    return RecipeWriter(directory, session, bank, space, calibration, record.settings.reference, record.limits)


@pytest.fixture(scope="module")
def trials() -> list[EvaluatedTrial]:
    return SearchDirectory(finished_run()).trials()


def names(writer: RecipeWriter) -> set[str]:
    return {path.stem for path in writer.directory.recipes.iterdir()}


def test_a_recipe_says_what_its_trial_was(writer: RecipeWriter, trials: list[EvaluatedTrial]) -> None:
    trial = trials[-1]
    writer.write(trial)
    recipe = Recipe.load(writer.directory.recipe_path(trial.id))
    assert (recipe.cost, recipe.score) == (trial.cost, trial.score)
    assert recipe.model == writer.session.reference
    assert recipe.calibration == writer.calibration
    assert (recipe.task, recipe.reparameterized) == (None, {})
    assert recipe.sites == writer.bank.resolve(writer.space.sites_for(trial.assignment))
    record = SearchDirectory(finished_run()).require()
    writer.write(trial, record.model_copy(update={"accuracy": {trial.id: ACCURACY}}))
    score = Recipe.load(writer.directory.recipe_path(trial.id)).score
    assert score is not None
    assert (score.metrics, score.labelled_images) == (ACCURACY.metrics, 24)
    assert record.full_precision is not None
    assert (score.labels_by, score.full_precision) == ("name", record.full_precision.metrics)
    assert score.kl_nats == trial.score.kl_nats


@pytest.mark.parametrize("is_best_first", [False, True])
def test_a_trial_that_is_beaten_is_not_written(writer: RecipeWriter, is_best_first: bool) -> None:
    frozen = load_trials(finished_run() / "study.log", STUDY_NAME)
    if is_best_first:
        frozen.sort(key=lambda trial: EvaluatedTrial.of(trial).score.kl_nats)
    for done, trial in enumerate(frozen, start=1):
        before = names(writer)
        writer.keep_if_on_front(trial)
        front, uniform = shown_trials(evaluated_trials(frozen[:done]), writer.limits)
        shown = {each.id for each in (*front, *uniform)}
        assert shown <= names(writer), "whatever happens next, these can be picked"
        assert names(writer) - before == {EvaluatedTrial.of(trial).id} & shown
        assert {each.id for each in writer.kept} == shown
    if is_best_first:
        assert names(writer) == shown, "nothing was written that something beats"
        assert len(shown) < len(frozen)


def test_recipes_that_were_beaten_since_are_removed(writer: RecipeWriter, trials: list[EvaluatedTrial]) -> None:
    front, uniform = shown_trials(trials, writer.limits)
    shown = {trial.id for trial in (*front, *uniform)}
    beaten = next(trial for trial in trials if trial.id not in shown)
    writer.write(beaten)
    (writer.directory.recipes / "notes.txt").write_text("mine")
    record = SearchDirectory(finished_run()).require()
    known = {"accuracy": {front[-1].id: ACCURACY}, "calibration_kl_nats": {front[-1].id: 0.5}}
    writer.write_all(trials, record.model_copy(update=known))
    assert names(writer) == shown | {"notes"}
    scores = {name: Recipe.load(writer.directory.recipe_path(name)).score for name in shown}
    measured = {name for name, score in scores.items() if score is not None and score.metrics}
    assert measured == {front[-1].id}
    assert {name for name, score in scores.items() if score and score.calibration_kl_nats == 0.5} == measured
