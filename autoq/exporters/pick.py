"""Choose one recipe of a run: by name, by shape of the front, or by what one can afford."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import NamedTuple

from autoq.cost import Budget
from autoq.errors import BudgetError, RunDirectoryError
from autoq.optimization.front import best_within, knee
from autoq.optimization.trials import shown_trials
from autoq.recipe import Recipe
from autoq.runs.search.directory import SearchDirectory
from autoq.runs.search.record import RunRecord
from autoq.units import format_bops
from autoq.validation import did_you_mean


class Picked(NamedTuple):
    """A recipe of a run.

    Attributes:
        id: of the trial that it is from.
        recipe: itself, which knows where it lies.
    """

    id: str
    recipe: Recipe


def pick(directory: str | os.PathLike[str], choice: str, *, reconstructed: bool = False) -> Picked:
    """The recipe that ``choice`` means in a run.

    Args:
        directory: of the run.
        choice: ``best`` (least discrepancy within the run's budget), ``knee``, the id of a front or uniform point
            (``trial-137``, ``w4a4``) or of a published method (``repq-vit-w4a4``), or a smaller budget (``10G``,
            ``w3a3``, ``40%``).
        reconstructed: pick what was reconstructed from that recipe rather than the recipe as searched.

    Raises:
        RunDirectoryError: there is no such run, or nothing to pick from, or it is not reconstructed.
        BudgetError: ``choice`` is none of these, or nothing on the front is that cheap.
    """
    run = SearchDirectory(directory)
    record = run.require()
    if not reconstructed and choice in record.baselines:
        chosen, path = choice, run.path / record.baselines[choice].recipe
    elif not reconstructed:
        chosen = _choose(run, record, choice)
        path = run.recipe_path(chosen)
    else:
        known = record.reconstructed
        chosen = choice if choice in known else _choose(run, record, choice)
        if chosen not in known:
            raise RunDirectoryError(
                f"{chosen} is not reconstructed, {', '.join(known) or 'nothing'} is: run the search with --reconstruct"
            )
        path = run.path / known[chosen].recipe
    return Picked(chosen, Recipe.load(path))


def _choose(run: SearchDirectory, record: RunRecord, choice: str) -> str:
    """The id that ``choice`` means."""
    trials = run.trials()
    front, uniform = shown_trials(trials, record.budget_bops)
    ids = [trial.id for trial in [*front, *uniform]]
    if choice in ids:
        return choice
    if not front:
        raise RunDirectoryError(f"run {os.fspath(run.path)!r} has no recipe within its budget yet: let it go on")
    points = [(float(trial.cost.bops), trial.score.kl_nats) for trial in front]
    if choice == "knee":
        index: int | None = knee(points)
    else:
        limit = record.budget_bops
        if choice != "best":
            limit = _limit(choice, record.uniform_bops, ids)
        index = best_within(points, limit)
        if index is None:
            cheapest = front[0]
            raise BudgetError(
                f"nothing on the front costs {format_bops(limit)} or less; the cheapest is {cheapest.id} at "
                f"{format_bops(cheapest.cost.bops)}"
            )
    assert index is not None  # noqa: S101 - the front is not empty
    return front[index].id


def _limit(choice: str, uniform_cost: Callable[[int, int], int], ids: list[str]) -> int:
    try:
        return Budget.parse(choice).resolve(uniform_cost)
    except BudgetError as error:
        hint = did_you_mean(choice, [*ids, "best", "knee"])
        raise BudgetError(
            f"cannot pick {choice!r}: it is neither best, knee, a point of the front nor a budget.{hint}"
        ) from error
