"""One whole search: model in, front of recipes in a run directory out."""

from __future__ import annotations

import logging
import os
import time
import uuid
from collections.abc import Callable
from dataclasses import replace

from autoq.cost import BOPS, KINDS, CostKind, CostModel, LatencyTable, Limits
from autoq.cost.limits import describe_amount
from autoq.data import GivenImages
from autoq.errors import BudgetError, SpaceError
from autoq.events import Progress, ignore
from autoq.models import IN_MEMORY
from autoq.optimization.allocation.problem import AllocationProblem
from autoq.optimization.executors import EXECUTORS
from autoq.optimization.space import ResolvedSpace
from autoq.runs.opening import GivenObjects, RunInputs, calibration_reference, open_bank, open_run
from autoq.runs.search.clock import SearchClock
from autoq.runs.search.directory import SearchDirectory
from autoq.runs.search.owner import open_database
from autoq.runs.search.phases import SearchRun
from autoq.runs.search.recipes import RecipeWriter
from autoq.runs.search.record import RunRecord, new_record
from autoq.runs.search.result import SearchOutcome, make_result
from autoq.runs.search.settings import SearchSettings
from autoq.runs.search.worker import modules_of_workers
from autoq.runs.session import Session
from autoq.scoring.threads import shared_threads

_logger = logging.getLogger(__name__)


def run_search(
    settings: SearchSettings,
    out: str | os.PathLike[str],
    progress: Progress = ignore,
    on_searched: Callable[[], None] | None = None,
    given: GivenObjects | None = None,
) -> SearchOutcome:
    """Search, or resume the search in ``out``; then finish and reconstruct what was chosen, if that is asked for.

    Args:
        settings: what to search. If the search in ``out`` has finished with these settings and they ask for
            finishing or reconstruction, no more is proposed, whatever the time limit.
        out: the run directory; created if missing.
        progress: told what happens.
        on_searched: called when the search is over and finishing or reconstruction, which may take long, begins.
        given: a model and images that are at hand, used in place of those that the settings name.

    Raises:
        InputError: a setting is wrong, or ``out`` belongs to another run.
        RunError: something failed while running.
        KeyboardInterrupt: passed on; the run directory is complete up to the last finished trial.
    """
    started = time.monotonic()
    given = GivenObjects() if given is None else given
    settings.budgets  # noqa: B018 - refused before anything is loaded
    _refuse_unnamed(settings, given)
    if (connect := EXECUTORS[settings.executor_name].connect) is not None:
        connect(settings.address, settings.workers)
    if (prepare := EXECUTORS[settings.executor_name].prepare) is not None:
        prepare(modules_of_workers(settings))
    table = settings.table
    directory = SearchDirectory(out)
    with (
        shared_threads(settings.processes),
        open_run(
            directory,
            settings,
            given,
            progress,
            check=lambda session, space: _refuse_unreachable(settings, table, session, space),
            eval_data=settings.labelled_data,
            labels_required=settings.eval_data is not None or given.eval_data is not None,
            hold_out=True,
        ) as (inputs, earlier),
    ):
        run = _begin(settings, directory, inputs, earlier, table=table, progress=progress, started=started)
        try:
            run.run(on_searched)
        finally:
            run.leave()
        return make_result(directory, run.record, run.trials)


def _begin(
    settings: SearchSettings,
    directory: SearchDirectory,
    inputs: RunInputs,
    earlier: RunRecord | None,
    *,
    table: LatencyTable | None,
    progress: Progress,
    started: float,
) -> SearchRun:
    """Open the bank, and write the record of the run, which is known to be the one that ``earlier`` is of."""
    images, loaded = inputs.images, inputs.session.loaded
    fingerprints = {
        "images_sha256": images.sha256,
        "scoring_sha256": inputs.scoring.sha256,
        "space_fingerprint": inputs.space_fingerprint,
    }
    if table is not None:
        fingerprints["latency_sha256"] = table.sha256
    found = fingerprints | {"weights_sha256": loaded.weights_sha256}
    directory.refuse_changed(earlier, found)
    costs = inputs.session.costs.with_latency(table)
    name = (earlier.run if earlier is not None else "") or uuid.uuid4().hex
    database = open_database(settings, directory.path, name, costs, found)
    session, bank = open_bank(inputs.session, images, settings, directory.bank, progress)
    fingerprints["bank_fingerprint"] = bank.fingerprint
    record = new_record(settings, session, costs, inputs, fingerprints, earlier).model_copy(update={"run": name})
    _warn_of_limits(settings, record.limits, costs)
    is_searched = earlier is not None and earlier.only_lacks_improvement(settings)
    calibration = calibration_reference(images, bank, inputs.scoring)
    run = SearchRun(
        inputs=replace(inputs, session=session),
        loaded=replace(inputs.session, task=session.task),
        bank=bank,
        costs=costs,
        database=database,
        directory=directory,
        progress=progress,
        writer=RecipeWriter(
            directory, session, bank, inputs.space, calibration, settings.reference, record.limits, settings.proxy
        ),
        record=record.model_copy(update={"state": "finished" if is_searched else "running"}),
        is_searched=is_searched,
        clock=SearchClock(started, 0.0 if earlier is None else earlier.seconds, settings.time_limit_seconds),
    )
    run.keep()
    return run


def _warn_of_limits(settings: SearchSettings, limits: Limits, costs: CostModel) -> None:
    """Say in a warning if a budget limits nothing, and what a time limit does not cover."""
    for name, budget in settings.budgets.items():
        kind, eight = KINDS[name], costs.uniform(KINDS[name], 8, 8)
        if limits.most[name] > eight and budget.uniform is None:
            _logger.warning(
                "budget %r is more than uniform w8a8 costs, which is %s: it limits little",
                *(budget.text, kind.format(eight)),
            )
    if settings.time_limit_seconds is not None and settings.improves:
        _logger.warning("--time-limit ends the search; finishing and reconstruction follow it (--no-finish leaves out)")


def _refuse_unnamed(settings: SearchSettings, given: GivenObjects) -> None:
    """Refuse objects where workers rebuild what they work on from its name."""
    if EXECUTORS[settings.executor_name].rebuilds and (
        settings.model.startswith(IN_MEMORY) or isinstance(given.data, GivenImages)
    ):
        raise SpaceError(
            f"executor {settings.executor_name!r} rebuilds model and images by their names in other processes: name "
            "them (python:package.module:function for what code of yours makes), or use one worker"
        )


def _refuse_unreachable(
    settings: SearchSettings, table: LatencyTable | None, session: Session, resolved: ResolvedSpace
) -> None:
    """Refuse budgets that no recipe of a space keeps, before anything is calibrated; say what the least is."""
    costs = session.costs.with_latency(table)
    limits = Limits.resolve(settings.budgets, costs)
    least = {name: _least(KINDS[name], costs, resolved) for name in limits.most}
    told = " and ".join(describe_amount(KINDS[name], value) for name, value in least.items())
    for name, limit in limits.most.items():
        kind, eight = KINDS[name], costs.uniform(KINDS[name], 8, 8)
        if limit < least[name]:
            raise BudgetError(
                f"budget {settings.budgets[name].text!r} is {describe_amount(kind, limit)}, but the cheapest recipe in "
                f"space {resolved.name!r} costs {describe_amount(kind, least[name])} "
                f"({100 * least[name] / eight:.1f}% of uniform w8a8): raise the budget or widen the space"
                + (f"; least of each: {told}" if len(least) > 1 else "")
            )
    if len(limits.most) > 1 or not KINDS[next(iter(limits.most))].is_sum:
        problem = AllocationProblem(costs, resolved, limits)
        most = problem.maximum_cost if limits.limit is None else limits.limit
        try:
            problem.allocate(problem.table(lambda *_: 0.0), most)
        except BudgetError as error:
            raise BudgetError(f"{error}; least of each: {told}") from error


def _least(kind: CostKind, costs: CostModel, resolved: ResolvedSpace) -> int:
    """Return the least that a recipe of a space costs."""
    if kind.is_sum and kind != BOPS:
        return AllocationProblem(costs, resolved, Limits({kind.name: 0})).minimum_cost
    return costs.cost(resolved.cheapest()).record().amount(kind.field)
