"""Picking one recipe of a run, and writing it."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from optuna.trial import TrialState, create_trial

from autoq.errors import AutoqError, BudgetError, RecipeError, RunDirectoryError
from autoq.events import PhaseStarted
from autoq.exporters import Picked, RecipeExporter, pick, pick_recipe, write_export
from autoq.exporters.pick import _losses
from autoq.optimization.front import knee
from autoq.optimization.storage import TrialStore, load_trials
from autoq.optimization.trials import EvaluatedTrial, evaluated_trials, shown_trials
from autoq.recipe import Recipe, ScoreRecord
from autoq.runs.evaluate import evaluate_recipe
from autoq.runs.search.directory import STUDY_NAME, SearchDirectory
from autoq.runs.search.run import run_search
from autoq.sensitivity.proxies import PROXIES
from tests.exporters.sources import bare
from tests.recipe.recipes import make_recipe
from tests.runs.small_run import finished_run, interrupt_at, small_settings, trace_once


@pytest.fixture(scope="module")
def run() -> Path:
    return finished_run()


@pytest.fixture(scope="module")
def front(run: Path) -> list[EvaluatedTrial]:
    trials = evaluated_trials(load_trials(run / "study.log", STUDY_NAME))
    front, _ = shown_trials(trials, SearchDirectory(run).require().limits)
    assert len(front) >= 3, "too small a front to tell choices apart"
    return front


def refusal(run: Path, choice: str, error: type[AutoqError] = BudgetError) -> str:
    with pytest.raises(error) as caught:
        pick(run, choice)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_best_is_the_least_discrepancy_within_the_budget(run: Path, front: list[EvaluatedTrial]) -> None:
    name, recipe, _ = pick(run, "best")
    assert name == min(front, key=lambda trial: trial.score.kl_nats).id
    assert recipe.score is not None
    assert recipe.score.kl_nats == min(trial.score.kl_nats for trial in front)
    assert recipe.cost is not None
    assert recipe.cost.bops <= SearchDirectory(run).require().budgets["bops"]


def test_a_path_is_a_recipe_or_a_run(run: Path, tmp_path: Path) -> None:
    best, file = pick(run, "best"), run / "recipes" / "w4a4.json"
    assert pick_recipe(run) == best
    assert pick_recipe(run, "w4a4", version="searched") == pick(run, "w4a4", version="searched")
    assert pick_recipe(file) == Picked("w4a4.json", Recipe.load(file), "")
    shutil.copy(file, tmp_path / Recipe.FILE)
    assert pick_recipe(tmp_path).recipe == Recipe.load(file)
    for choice, version in (("knee", None), ("best", "searched")):
        with pytest.raises(RecipeError, match="has one recipe: --pick and --as are for the directory of a search"):
            pick_recipe(file, choice, version=version)


def test_knee(run: Path, front: list[EvaluatedTrial]) -> None:
    expected = front[knee([(trial.cost.bops, trial.score.kl_nats) for trial in front])]
    assert pick(run, "knee")[0] == expected.id


def test_an_id_is_that_recipe(run: Path, front: list[EvaluatedTrial]) -> None:
    for trial in front:
        name, recipe, _ = pick(run, trial.id)
        assert name == trial.id
        assert recipe.cost == trial.cost
    name, recipe, _ = pick(run, "w6a6")
    assert name == "w6a6", "uniform points can be picked, even over the budget"
    assert {config.bits for operands in recipe.sites.values() for config in operands.values()} == {6}


def test_any_trial_can_be_picked(run: Path, front: list[EvaluatedTrial]) -> None:
    others = [trial for trial in SearchDirectory(run).trials() if trial not in front and trial.origin != "uniform"]
    assert others
    name, recipe, version = pick(run, others[0].id)
    assert (name, version) == (others[0].id, "searched")
    assert recipe.score is not None
    assert (recipe.cost, recipe.score.kl_nats) == (others[0].cost, others[0].score.kl_nats)
    assert recipe.folder == run / "recipes", "its bank is looked for from there"


def test_a_trial_without_a_score_is_refused_with_the_reason(run: Path, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "run")
    store = TrialStore.open(tmp_path / "run" / "study.log", STUDY_NAME)
    store.append(create_trial(state=TrialState.PRUNED, user_attrs={"origin": "sampler", "label": ""}))
    given_up = f"trial-{len(store.load_trials()) - 1}"
    assert f"{given_up} was given up early" in refusal(tmp_path / "run", given_up, RunDirectoryError)


def test_a_budget_is_the_best_that_it_buys(run: Path, front: list[EvaluatedTrial]) -> None:
    middle = front[len(front) // 2]
    assert pick(run, str(middle.cost.bops))[0] == middle.id
    assert pick(run, str(middle.cost.bops - 1))[0] == front[len(front) // 2 - 1].id
    record = SearchDirectory(run).require()
    assert pick(run, f"{100 * front[0].cost.bops / record.uniform_8_8_cost + 0.001:.3f}%")[0] == front[0].id
    assert pick(run, "1T")[0] == pick(run, "w8a8")[0] == pick(run, "best")[0]


def test_too_small_a_budget_says_what_the_cheapest_costs(run: Path, front: list[EvaluatedTrial]) -> None:
    message = refusal(run, str(front[0].cost.bops - 1))
    assert "nothing on the front costs 31.5 M BOPs or less" in message
    assert f"the cheapest is {front[0].id} at 31.5 M BOPs" in message


def test_typos(run: Path) -> None:
    assert "Did you mean 'best'?" in refusal(run, "bets")
    assert "Did you mean 'w3a3'?" in refusal(run, "w3a3g4")
    assert "cannot pick 'trial-999'" in refusal(run, "trial-999")
    assert "cannot pick ''" in refusal(run, "")


def test_runs_without_a_choice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "is no run directory" in refusal(tmp_path, "best", RunDirectoryError)
    trace_once(monkeypatch)
    before_any_trial = interrupt_at(lambda event: isinstance(event, PhaseStarted) and event.phase == "sensitivity")
    with pytest.raises(KeyboardInterrupt):
        run_search(small_settings(tmp_path), tmp_path / "run", before_any_trial)
    assert "no recipe within its budget yet" in refusal(tmp_path / "run", "best", RunDirectoryError)
    (tmp_path / "run" / "study.log").unlink()
    assert "no recipe within its budget yet" in refusal(tmp_path / "run", "best", RunDirectoryError)


def test_a_missing_recipe_is_made_again(tmp_path: Path, run: Path) -> None:
    shutil.copytree(run, tmp_path / "run")
    (tmp_path / "run" / "recipes" / "w4a4.json").unlink()
    assert pick(tmp_path / "run", "w4a4").recipe == Recipe.load(run / "recipes" / "w4a4.json")
    (tmp_path / "run" / "space.json").unlink()
    assert "space.json" in refusal(tmp_path / "run", "w4a4", RunDirectoryError)


def test_labelled_images_decide_where_every_version_is_known_there() -> None:
    """The searched version was chosen by its discrepancy, which flatters it."""
    searched = make_recipe(score=ScoreRecord(kl_nats=0.1, sqnr_db=1.0, output_mse=2.0, images=4))
    finished = make_recipe(score=ScoreRecord(kl_nats=0.2, sqnr_db=1.0, output_mse=2.0, images=4))

    def losses(*labelled: float | None, proxy: str = "kl") -> dict[str, float]:
        versions = {}
        for name, recipe, known in zip(("searched", "finished"), (searched, finished), labelled, strict=True):
            assert recipe.score is not None
            score = recipe.score.with_metrics({"top1_percent": 50.0}, 9, "name", None, known)
            versions[name] = recipe.model_copy(update={"score": score})
        return _losses(versions, PROXIES[proxy])

    assert losses(0.4, 0.3) == {"searched": 0.4, "finished": 0.3}
    assert losses(0.4, None) == losses(None, None) == {"searched": 0.1, "finished": 0.2}
    assert losses(0.4, 0.3, proxy="mse") == {"searched": 2.0, "finished": 2.0}
    assert _losses({"searched": searched.model_copy(update={"score": None})}, PROXIES["kl"]) == {
        "searched": float("inf")
    }


def test_the_version_of_least_discrepancy_is_picked(tmp_path: Path, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trace_once(monkeypatch)
    monkeypatch.setattr("autoq.runs.search.improve_front.FINISHING_IMAGES", 16)
    shutil.copytree(run, tmp_path / "run")
    out, best = tmp_path / "run", pick(run, "best").id

    def improve(**changes: Any) -> None:
        run_search(small_settings(run.parent, finish=True, **changes), out)

    def assert_least(versions: tuple[str, ...]) -> None:
        losses = {}
        for version in versions:
            score = pick(out, "best", version=version).recipe.score
            assert score is not None
            losses[version] = score.kl_nats
        assert losses[pick(out, "best").version] == min(losses.values())

    assert pick(out, "best").version == "searched"
    with pytest.raises(RunDirectoryError, match=rf"{best} is not finished, nothing is: run the search with --finish$"):
        pick(out, "best", version="finished")
    improve()
    assert_least(("searched", "finished"))
    improve(reconstruct=True, reconstruct_iterations=2, reconstruct_images=16)
    for choice in ("best", best):
        assert pick(out, choice).id == best
        assert pick(out, choice, version="reconstructed").recipe.reconstruction is not None
    assert_least(("searched", "finished", "reconstructed"))
    found = pick(out, "best", version="finished")
    assert (found.version, found.recipe.reconstruction) == ("finished", None)
    assert found.recipe.finishing is not None
    assert pick(out, "best", version="searched").recipe == Recipe.load(out / "recipes" / f"{best}.json")
    assert pick(out, "w6a6").version == "searched", "nothing was made of it"
    with pytest.raises(RunDirectoryError, match=rf"w6a6 is not finished, {best}, .* is: run the search with --finish$"):
        pick(out, "w6a6", version="finished")
    with pytest.raises(RecipeError, match=r"unknown version 'finishd'.*Did you mean 'finished'"):
        pick(out, "best", version="finishd")

    write_export(RecipeExporter(), bare(found.recipe), tmp_path / "mine.json")
    assert Recipe.load(tmp_path / "mine.json").content_hash == found.recipe.content_hash
    assert found.recipe.score is not None
    assert evaluate_recipe(Recipe.load(tmp_path / "mine.json")).score.kl_nats == found.recipe.score.kl_nats


def test_the_number_of_a_trial_is_not_a_budget(run: Path, front: list[EvaluatedTrial]) -> None:
    number = next(trial.id for trial in front if trial.id.startswith("trial-")).removeprefix("trial-")
    assert refusal(run, number).endswith(f"Did you mean 'trial-{number}'?")
