"""``autoq status``."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from autoq.cli.options import Json, print_json

if TYPE_CHECKING:
    from autoq.runs.search.status import StudyStatus


def status(
    where: Annotated[
        str, typer.Argument(metavar="DIR|URL", help="The run directory of a search, or the database of --storage.")
    ],
    study_name: Annotated[
        str | None, typer.Option(metavar="NAME", help="Of the study in the database. [default: the only one]")
    ] = None,
    as_json: Json = False,
) -> None:
    """Show how far a search has come: trials, rate, workers, best recipe, hypervolume, time left."""
    from autoq.runs.search.status import read_status

    found = read_status(where, study_name)
    if as_json:
        print_json(asdict(found))
        return
    for name, text in _lines(found).items():
        typer.echo(f"{name + ':':<13}{text}")


def _lines(found: StudyStatus) -> dict[str, str]:
    """Return what there is to say, by what it is about."""
    from autoq.cost.kinds import cost_kind
    from autoq.sensitivity.proxies import PROXIES
    from autoq.units import format_digits, format_seconds

    kind, loss = cost_kind(found.cost), PROXIES[found.proxy].loss
    states = ", ".join(f"{count} {state}" for state, count in found.by_state.items() if count)
    lines = {
        "search": found.name + (f" ({found.state})" if found.state else ""),
        "trials": f"{found.done} of {found.wanted}" + (f": {states}" if states else ""),
    }
    if found.seconds_since is not None:
        lines["last"] = f"{format_seconds(found.seconds_since)} ago"
    if found.per_minute is not None:
        left = "" if found.seconds_left is None else f"; about {format_seconds(found.seconds_left)} left"
        lines["rate"] = f"{format_digits(found.per_minute)} a minute{left}"
    if found.workers:
        lines["workers"] = ", ".join(f"{name} ({count})" for name, count in sorted(found.workers.items()))
    if found.budget is not None:
        lines["budget"] = kind.format(found.budget)
    if found.best is not None:
        best = found.best
        lines["best"] = f"trial {best.number}: {loss.title} {loss.format(best.loss)} at {kind.format(best.cost)}"
        lines["front"] = f"{found.front_size} recipes within the budget"
    if found.hypervolume:
        volumes = ", ".join(f"{format_digits(volume, 4)} after {trials}" for trials, volume in found.hypervolume)
        lines["hypervolume"] = volumes
    return lines
