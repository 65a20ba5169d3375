"""Reports of long-running commands."""

from __future__ import annotations

import dataclasses
import inspect
import io
from typing import get_args

import pytest
from rich.console import Console

from autoq import events
from autoq.display import RunDisplay
from autoq.events import (
    BlockAdvanced,
    BlockFinished,
    Event,
    FirstRecipe,
    PhaseAdvanced,
    PhaseStarted,
    TrialFinished,
    ignore,
)

EVERY = (
    PhaseStarted("search"),
    PhaseAdvanced("search", 3),
    FirstRecipe("KL 0.02 nats", "55.9 M BOPs", "run/recipes/trial-0.json"),
    TrialFinished(1, 2, None, 0, None),
    BlockAdvanced("mlp", "blocks.0.mlp", 1, 4, 5, 10, 0.5),
    BlockFinished("reconstruction", "blocks.0", 1, 4, "aph", 1.0, 0.5),
)


def test_every_event_is_one_of_the_union() -> None:
    defined = {cls for _, cls in inspect.getmembers(events, inspect.isclass) if cls.__module__ == events.__name__}
    assert defined == set(get_args(Event)) == {type(event) for event in EVERY}


@pytest.mark.parametrize("event", EVERY)
def test_events_can_be_kept_and_compared(event: Event) -> None:
    """They are values: a display may keep one while the command goes on."""
    assert dataclasses.replace(event) == event
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(event, dataclasses.fields(event)[0].name, "model")
    ignore(event)


@pytest.mark.parametrize("phase", get_args(events.Phase))
def test_every_phase_can_be_displayed(phase: events.Phase) -> None:
    written = io.StringIO()
    with RunDisplay(Console(file=written)) as display:
        display(PhaseStarted(phase, 7))
    assert "(7)" in written.getvalue()
