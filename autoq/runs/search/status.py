"""How far a search has come, read from its directory or from the database that it writes to."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path

from optuna.trial import FrozenTrial, TrialState

from autoq.cost.kinds import cost_kind
from autoq.errors import RunDirectoryError, SpaceError
from autoq.optimization.database import read_study, shown_url
from autoq.optimization.front import hypervolume, non_dominated
from autoq.optimization.storage import load_trials
from autoq.optimization.trials import UNIFORM, is_feasible
from autoq.runs.search.directory import STUDY_NAME, SearchDirectory

_RECENT = timedelta(minutes=10)
"""Over which the rate is taken, and within which a worker has to have finished something to count."""
_VOLUMES = 8
"""Points of the hypervolume over time."""


@dataclass(frozen=True)
class BestTrial:
    """The trial of least loss within all budgets.

    Attributes:
        number: of the trial.
        cost: of the kind that the front is over.
        loss: by the proxy.
    """

    number: int
    cost: float
    loss: float


@dataclass(frozen=True)
class StudyStatus:
    """How far a search has come.

    Attributes:
        name: its directory, or the study and the database.
        state: ``running``, ``interrupted`` or ``finished``; None where a database does not tell.
        done: finished trials.
        wanted: trials that were asked for.
        by_state: finished trials by state: ``complete``, ``pruned``, ``failed``.
        per_minute: finished trials a minute lately, or None.
        seconds_left: that the others take at this rate, or None.
        seconds_since: the last one was finished, or None.
        workers: trials that each worker has finished lately, by host and process; none where the driver evaluates.
        proxy: what the loss is.
        cost: name of the kind of cost that the front is over.
        budget: of that kind, or None.
        best: within all budgets, or None.
        front_size: recipes of the front within all budgets.
        hypervolume: of the front over time, as (trials, hypervolume in reference costs × decades of loss); empty
            before the uniform points are evaluated.
    """

    name: str
    state: str | None
    done: int
    wanted: int
    by_state: Mapping[str, int]
    per_minute: float | None
    seconds_left: float | None
    seconds_since: float | None
    workers: Mapping[str, int]
    proxy: str
    cost: str
    budget: int | None
    best: BestTrial | None
    front_size: int
    hypervolume: Sequence[tuple[int, float]] = field(default_factory=list)


def read_status(where: str | os.PathLike[str], study_name: str | None = None) -> StudyStatus:
    """Read how far a search has come, while it runs or later; nothing is written.

    Args:
        where: its directory, or the URL of a database.
        study_name: of the study in a database; None: the only one.

    Raises:
        RunDirectoryError: there is no search in the directory.
        StorageError: the database cannot be used, or has no such study.
        SpaceError: a name of a study is given with a directory.
    """
    text = os.fspath(where)
    if "://" in text:
        name, owner, trials = read_study(text, study_name)
        facts = _Facts(
            f"{name} in {shown_url(text)}",
            None,
            owner["trials"],
            owner["proxy"],
            owner["cost"],
            owner["budgets"].get(owner["cost"]),
            owner["uniform_8_8_cost"],
        )
        return _status(facts, trials)
    if study_name is not None:
        raise SpaceError("--study-name is of no use with a directory: give the URL of a database")
    directory = SearchDirectory(Path(text))
    record = directory.require()
    kind, settings = record.limits.chosen.name, record.settings
    facts = _Facts(
        text,
        record.state,
        settings.trials,
        settings.proxy,
        kind,
        record.budgets.get(kind),
        record.uniform_8_8_cost,
    )
    try:
        return _status(facts, load_trials(directory.study, STUDY_NAME))
    except RunDirectoryError:
        if directory.study.exists():
            raise
        return _status(facts, [])


@dataclass(frozen=True)
class _Facts:
    """What is known of a search beside its trials; see ``StudyStatus``."""

    name: str
    state: str | None
    wanted: int
    proxy: str
    cost: str
    budget: int | None
    reference_cost: int


def _status(facts: _Facts, trials: Sequence[FrozenTrial]) -> StudyStatus:
    finished = [trial for trial in trials if trial.state.is_finished()]
    names = {TrialState.COMPLETE: "complete", TrialState.PRUNED: "pruned", TrialState.FAIL: "failed"}
    affordable = [t for t in finished if t.state == TrialState.COMPLETE and is_feasible(t)]
    front = [affordable[i] for i in non_dominated([(t.values[0], t.values[1]) for t in affordable])]
    times = sorted(trial.datetime_complete for trial in finished if trial.datetime_complete is not None)
    rate = _per_minute(times)
    left = max(0, facts.wanted - len(finished))
    is_over = facts.state == "finished"
    recent = [t for t in finished if t.datetime_complete is not None and t.datetime_complete >= times[-1] - _RECENT]
    return StudyStatus(
        name=facts.name,
        state=facts.state,
        done=len(finished),
        wanted=facts.wanted,
        by_state={name: sum(t.state == state for t in finished) for state, name in names.items()},
        per_minute=rate,
        seconds_left=None if rate is None or is_over else 60 * left / rate,
        seconds_since=(datetime.now() - times[-1]).total_seconds() if times else None,
        workers=dict(Counter(str(t.user_attrs["worker"]) for t in recent if "worker" in t.user_attrs)),
        proxy=facts.proxy,
        cost=cost_kind(facts.cost).name,
        budget=facts.budget,
        best=BestTrial(front[-1].number, front[-1].values[0], front[-1].values[1]) if front else None,
        front_size=len(front),
        hypervolume=_volumes(finished, facts.reference_cost),
    )


def _per_minute(times: Sequence[datetime]) -> float | None:
    """Compute the rate of the last minutes in which something was finished."""
    recent = [time for time in times if time >= times[-1] - _RECENT]
    seconds = (recent[-1] - recent[0]).total_seconds() if recent else 0.0
    return 60 * (len(recent) - 1) / seconds if seconds > 0 else None


def _volumes(finished: Sequence[FrozenTrial], reference_cost: int) -> list[tuple[int, float]]:
    """Compute the hypervolume after several numbers of trials, the last one among them."""
    uniform = [t.values[1] for t in finished if t.state == TrialState.COMPLETE and t.user_attrs["origin"] == UNIFORM]
    if not uniform:
        return []
    steps = sorted({round(len(finished) * step / _VOLUMES) for step in range(1, _VOLUMES + 1)} - {0})
    found = []
    for count in steps:
        points = [
            (t.values[0], t.values[1]) for t in finished[:count] if t.state == TrialState.COMPLETE and is_feasible(t)
        ]
        found.append((count, hypervolume(points, (reference_cost, max(uniform))) / reference_cost))
    return found
