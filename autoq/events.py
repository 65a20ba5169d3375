"""What a long-running command reports, for a progress display to show."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

Phase = Literal["model", "images", "capture", "calibration", "sensitivity", "search", "front", "score", "accuracy"]


@dataclass(frozen=True)
class PhaseStarted:
    """A phase begins.

    Attributes:
        phase: which.
        total: steps it will take, if known.
        detail: what it works on, in a few words.
    """

    phase: Phase
    total: int | None = None
    detail: str = ""


@dataclass(frozen=True)
class PhaseAdvanced:
    """The current phase has done ``done`` steps."""

    phase: Phase
    done: int


@dataclass(frozen=True)
class TrialFinished:
    """A recipe was evaluated.

    Attributes:
        done: trials so far, earlier runs included.
        total: trials asked for.
        best_loss: least loss within the budget so far, or None.
        front_size: non-dominated recipes within the budget so far.
        seconds_left: until the time limit, or None.
        proxy: what the loss is.
    """

    done: int
    total: int
    best_loss: float | None
    front_size: int
    seconds_left: float | None
    proxy: str = "kl"


Event = PhaseStarted | PhaseAdvanced | TrialFinished
Progress = Callable[[Event], None]


def ignore(event: Event) -> None:
    """Report nothing."""
