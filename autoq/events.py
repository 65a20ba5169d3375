"""What a long-running command reports, for a progress display to show."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

Phase = Literal[
    "model",
    "images",
    "capture",
    "calibration",
    "sensitivity",
    "baselines",
    "search",
    "front",
    "improving",
    "mlp",
    "finishing",
    "reconstruction",
    "score",
    "accuracy",
    "timing",
]


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
        seconds_left: until nothing more is proposed, or None without a time limit.
        proxy: what the loss is.
        seconds_after: that the accuracy of what is shown will take after that, about; None where none is measured.
    """

    done: int
    total: int
    best_loss: float | None
    front_size: int
    seconds_left: float | None
    proxy: str = "kl"
    seconds_after: float | None = None


@dataclass(frozen=True)
class FirstRecipe:
    """An exact allocation for the budgets is evaluated, and its recipe is on disk; what follows may improve on it.

    It is by the sensitivities over the first few images where those over all take longer.

    Attributes:
        loss: of the recipe, with its unit.
        cost: of the recipe, of the kind that the front is over, with its unit.
        path: of the recipe.
    """

    loss: str
    cost: str
    path: str


@dataclass(frozen=True)
class BlockAdvanced:
    """A block, or an MLP, is being trained.

    Attributes:
        phase: ``reconstruction`` or ``mlp``.
        name: of the block.
        number: of the block among those that are trained, from 1.
        blocks: how many those are.
        done: iterations so far.
        iterations: how many there will be.
        loss: of the last batch; of a block relative to what it was before.
    """

    phase: Phase
    name: str
    number: int
    blocks: int
    done: int
    iterations: int
    loss: float


@dataclass(frozen=True)
class BlockFinished:
    """A block, or an MLP, was trained, now or by an earlier run.

    Attributes:
        phase: ``reconstruction`` or ``mlp``.
        name: of the block.
        number: of the block among those that are trained, from 1.
        blocks: how many those are.
        loss: what was minimised.
        before: the loss over all images before.
        after: the same after.
        kept: False if that is no better, and the block is left as it was.
    """

    phase: Phase
    name: str
    number: int
    blocks: int
    loss: str
    before: float
    after: float
    kept: bool = True


Event = PhaseStarted | PhaseAdvanced | FirstRecipe | TrialFinished | BlockAdvanced | BlockFinished
Progress = Callable[[Event], None]


def ignore(event: Event) -> None:
    """Report nothing."""
