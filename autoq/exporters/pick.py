"""Choose one recipe of a run: by name, by shape of the front, or by what one can afford."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import NamedTuple

from autoq.cost import KINDS, Budget, Limits
from autoq.cost.kinds import cost_kind
from autoq.cost.limits import describe_amount
from autoq.errors import BudgetError, RecipeError, RunDirectoryError
from autoq.optimization.storage import load_trials
from autoq.optimization.trials import EvaluatedTrial, best_trial, knee_trial, shown_trials
from autoq.recipe import Recipe
from autoq.runs.search.directory import STUDY_NAME, SearchDirectory
from autoq.runs.search.record import RunRecord
from autoq.runs.search.trial_recipes import TrialRecipes
from autoq.sensitivity.proxies import PROXIES, Proxy
from autoq.units import KL_LOSS
from autoq.validation import did_you_mean

PUBLISHED = "published"
"""The version of a published method's recipe, which has no other."""
VERSIONS = ("searched", "finished", "reconstructed")
"""Versions of a recipe of a search, the furthest last."""
_OPTIONS = {"finished": "--finish", "reconstructed": "--reconstruct"}
"""Options of ``autoq search`` that make them."""


class Picked(NamedTuple):
    """A recipe of a run.

    Attributes:
        id: of the trial or published method that it is from.
        recipe: itself, which knows where it lies.
        version: ``searched``, ``finished``, ``reconstructed``, or ``published``; empty: of a file that has one recipe.
    """

    id: str
    recipe: Recipe
    version: str


def pick(directory: str | os.PathLike[str], choice: str, *, version: str | None = None) -> Picked:
    """Pick the recipe that ``choice`` means in a run.

    Args:
        directory: of the run.
        choice: ``best`` (least loss within the run's budgets), ``knee``, the id of a trial (``trial-137``, ``w4a4``)
            or of a published method (``repq-vit-w4a4``), or smaller budgets: ``10G``, ``w3a3`` or ``40%`` of the cost
            that the front is over, or of any kind, ``size=2MB,latency=40%``.
        version: ``searched``, ``finished`` or ``reconstructed``; None: that of least discrepancy among those there are.

    Raises:
        RunDirectoryError: there is no such run, or nothing to pick from, or not in that version.
        RecipeError: there are no such versions.
        BudgetError: ``choice`` is none of these, or nothing on the front is that cheap.
    """
    if version is not None and version not in VERSIONS:
        raise RecipeError(
            f"unknown version {version!r}; there are {', '.join(VERSIONS)}.{did_you_mean(version, VERSIONS)}"
        )
    run = SearchDirectory(directory)
    record = run.require()
    known = {*record.baselines, *record.finished, *record.reconstructed}
    chosen = choice if choice in known else _choose(run, record, choice)
    paths = _versions(run, record, chosen)
    if version is None:
        recipes = {name: _load(run, record, chosen, path) for name, path in paths.items()}
        losses = _losses(recipes, PROXIES[record.settings.proxy])
        version = min(reversed(recipes), key=lambda name: losses[name])
        return Picked(chosen, recipes[version], version)
    if version not in paths:
        raise RunDirectoryError(_missing(record, chosen, version))
    return Picked(chosen, _load(run, record, chosen, paths[version]), version)


def pick_recipe(source: str | os.PathLike[str], choice: str = "best", *, version: str | None = None) -> Picked:
    """Read the recipe that a path has, or pick one of the search whose run directory it is.

    Args:
        source: a recipe's file, a bundle, a folder with ``recipe.json``, or the run directory of a search.
        choice: of a search, as in :func:`pick`.
        version: likewise.

    Returns:
        The recipe; where it is the only one, with the path's name and no version.

    Raises:
        RecipeError: there is no recipe, or it is damaged, or it is the only one and ``choice`` or ``version`` is given.
        RunDirectoryError: as :func:`pick`.
        BudgetError: as :func:`pick`.
    """
    path = Path(source)
    if path.is_dir() and not (path / Recipe.FILE).is_file():
        return pick(path, choice, version=version)
    recipe = Recipe.load(path)
    if choice != "best" or version is not None:
        raise RecipeError(f"{os.fspath(source)!r} has one recipe: --pick and --as are for the directory of a search")
    return Picked(path.name, recipe, "")


def _load(run: SearchDirectory, record: RunRecord, chosen: str, path: Path) -> Recipe:
    """Read a recipe; one of a trial that is not on the front, which no file has, is made from the study."""
    if path != run.recipe_path(chosen) or path.is_file():
        return Recipe.load(path)
    trial = next(trial for trial in run.trials() if trial.id == chosen)
    return TrialRecipes.load(run.space).recipe(trial, record).located(run.recipes)


def _losses(recipes: Mapping[str, Recipe], proxy: Proxy) -> dict[str, float]:
    """Return the losses of a recipe's versions; on labelled images, which chose none, if all are known there."""
    scores = {name: recipe.score for name, recipe in recipes.items()}
    labelled = {name: None if score is None else score.labelled_kl_nats for name, score in scores.items()}
    known = {name: loss for name, loss in labelled.items() if loss is not None}
    if proxy.loss == KL_LOSS and len(known) == len(recipes):
        return known
    return {name: math.inf if score is None else proxy.loss_of(score) for name, score in scores.items()}


def _versions(run: SearchDirectory, record: RunRecord, chosen: str) -> dict[str, Path]:
    """Return the paths of a recipe's versions, the furthest last."""
    if chosen in record.baselines:
        return {PUBLISHED: run.path / record.baselines[chosen].recipe}
    improved = {"finished": record.finished, "reconstructed": record.reconstructed}
    paths = {name: run.path / entries[chosen].recipe for name, entries in improved.items() if chosen in entries}
    return {"searched": run.recipe_path(chosen), **paths}


def _missing(record: RunRecord, chosen: str, version: str) -> str:
    """Say that a recipe is not there in a version, and what to do about it."""
    if chosen in record.baselines:
        return f"{chosen} is a published method's recipe and is not {version}: leave the version out"
    known = ", ".join(getattr(record, version)) or "nothing"
    return f"{chosen} is not {version}, {known} is: run the search with {_OPTIONS[version]}"


def _choose(run: SearchDirectory, record: RunRecord, choice: str) -> str:
    """Return the id that ``choice`` means."""
    trials = run.trials()
    front, _ = shown_trials(trials, record.limits)
    ids = [trial.id for trial in trials]
    if choice in ids:
        return choice
    if not front:
        raise RunDirectoryError(f"run {os.fspath(run.path)!r} has no recipe within its budget yet: let it go on")
    if choice == "knee":
        return knee_trial(front).id
    if choice == "best":
        return front[-1].id
    _refuse_unscored(run, choice)
    limits = _limits(choice, record, ids)
    chosen = best_trial(front, limits)
    if chosen is None:
        raise BudgetError(f"{_beyond(limits, front)}: pick that, or a larger budget.{_trial_of_number(choice, ids)}")
    return chosen.id


def _refuse_unscored(run: SearchDirectory, choice: str) -> None:
    """Refuse a trial that the study has without a score."""
    named = re.fullmatch(r"trial-(\d+)", choice)
    states = [trial.state.name for trial in load_trials(run.study, STUDY_NAME)] if named else []
    if named and int(named[1]) < len(states):
        why = {"PRUNED": "was given up early, as it lost much more than recipes that cost no more", "FAIL": "failed"}
        state = why.get(states[int(named[1])], "was not scored on its own")
        raise RunDirectoryError(f"{choice} {state}: pick one that trials.csv lists")


def _beyond(limits: Limits, front: list[EvaluatedTrial]) -> str:
    """Say that nothing is within budgets, and what is cheapest."""
    if list(limits.most) == [limits.chosen.name] and limits.chosen == front[0].cost_kind:
        cheapest, kind = front[0], limits.chosen
        return (
            f"nothing on the front costs {limits.describe()} or less; the cheapest is {cheapest.id} at "
            f"{kind.format(cheapest.chosen_cost)}"
        )
    least = [
        f"{describe_amount(KINDS[name], trial.cost.amount(KINDS[name].field))} ({trial.id})"
        for name in limits.most
        for trial in [min(front, key=lambda each: each.cost.amount(KINDS[name].field))]
    ]
    return f"nothing on the front costs {limits.describe()} or less; the least on the front is {' and '.join(least)}"


def _trial_of_number(choice: str, ids: list[str]) -> str:
    """Suggest the trial of a number that was taken for a budget."""
    return f" Did you mean 'trial-{choice}'?" if f"trial-{choice}" in ids else ""


def _limits(choice: str, record: RunRecord, ids: list[str]) -> Limits:
    """Read budgets: one of the cost that the front is over, or ``KIND=BUDGET`` for any."""
    try:
        written = dict(_named_budget(part, record.limits.chosen.name) for part in choice.split(","))
        found = {name: Budget.parse(text, cost_kind(name)) for name, text in written.items()}
    except BudgetError as error:
        hint = did_you_mean(choice, [*ids, "best", "knee"])
        raise BudgetError(
            f"cannot pick {choice!r}: it is neither best, knee, a trial that was evaluated nor a budget.{hint}"
        ) from error
    return Limits({name: budget.resolve(partial(record.uniform_cost, KINDS[name])) for name, budget in found.items()})


def _named_budget(part: str, default: str) -> tuple[str, str]:
    name, _, text = part.rpartition("=")
    return name.strip() or default, text
