"""Recipes of trials that no file has."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from autoq.errors import RunDirectoryError
from autoq.optimization.trials import EvaluatedTrial, shown_trials
from autoq.recipe import Recipe
from autoq.runs.evaluate import evaluate_recipe
from autoq.runs.search.directory import SearchDirectory
from autoq.runs.search.trial_recipes import TrialRecipes, measured_score
from tests.runs.small_run import finished_run, trace_once


@pytest.fixture(scope="module")
def directory() -> SearchDirectory:
    return SearchDirectory(finished_run())


@pytest.fixture(scope="module")
def recipes(directory: SearchDirectory) -> TrialRecipes:
    return TrialRecipes.load(directory.space)


def unwritten(directory: SearchDirectory) -> list[EvaluatedTrial]:
    front, uniform = shown_trials(directory.trials(), directory.require().limits)
    return [trial for trial in directory.trials() if trial not in front and trial not in uniform]


def test_written_recipes_are_made_again_as_they_are(directory: SearchDirectory, recipes: TrialRecipes) -> None:
    record = directory.require()
    written = [trial for trial in directory.trials() if directory.recipe_path(trial.id).exists()]
    assert written
    for trial in written:
        file = Recipe.load(directory.recipe_path(trial.id))
        assert recipes.recipe(trial, record) == file
        document = recipes.document(trial, record)
        assert document == file.to_json()
        assert list(document) == list(file.to_json())


def test_fitted_bases_are_spelled_out(directory: SearchDirectory, recipes: TrialRecipes) -> None:
    assert recipes.fitted
    logarithmic = [
        config
        for trial in directory.trials()
        for operands in recipes.recipe(trial).sites.values()
        for config in operands.values()
        if config.scheme == "adalog"
    ]
    assert logarithmic
    assert all(config.log_base_numerator is not None for config in logarithmic)


def test_a_recipe_that_no_file_has_reproduces_its_score(
    directory: SearchDirectory, recipes: TrialRecipes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its options are in the bank, under the bases that were fitted."""
    trace_once(monkeypatch)
    trial = unwritten(directory)[0]
    recipe = recipes.recipe(trial, directory.require()).located(directory.recipes)
    assert recipe.score == measured_score(trial, directory.require())
    assert evaluate_recipe(recipe).score.kl_nats == trial.score.kl_nats


def test_another_recipe_for_the_same_decisions_is_refused(directory: SearchDirectory, recipes: TrialRecipes) -> None:
    trial = replace(directory.trials()[0], recipe_hash="0" * 64)
    with pytest.raises(RunDirectoryError, match="version of autoq"):
        recipes.recipe(trial)


def test_what_is_saved_is_loaded(recipes: TrialRecipes, tmp_path: Path) -> None:
    recipes.save(tmp_path / "again.json")
    again = TrialRecipes.load(tmp_path / "again.json")
    assert (again.shared, again.fitted) == (recipes.shared, recipes.fitted)
    with pytest.raises(RunDirectoryError, match="absent"):
        TrialRecipes.load(tmp_path / "absent.json")
