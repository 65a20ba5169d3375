"""How long a search has taken, and how long it may."""

from __future__ import annotations

import time
from dataclasses import dataclass


@dataclass(frozen=True)
class SearchClock:
    """The time of one run of a search.

    Attributes:
        started: ``time.monotonic()`` when it began.
        seconds_before: what earlier runs took.
        limit_seconds: that this run may take, finishing and reconstruction aside; None: no limit.
    """

    started: float
    seconds_before: float = 0.0
    limit_seconds: float | None = None

    @property
    def deadline(self) -> float | None:
        """The ``time.monotonic()`` by which all is to be done, finishing and reconstruction aside."""
        return None if self.limit_seconds is None else self.started + self.limit_seconds

    @property
    def seconds(self) -> float:
        """What all runs took so far."""
        return self.seconds_before + time.monotonic() - self.started

    def fits(self, seconds: float) -> bool:
        """Tell whether something that takes so long is done by the deadline."""
        return self.deadline is None or time.monotonic() + seconds <= self.deadline

    def last_proposal(self, reserved: float) -> float | None:
        """Return the ``time.monotonic()`` after which nothing new is proposed.

        Args:
            reserved: seconds of what follows; of a time limit at most half of what is left.
        """
        if self.deadline is None:
            return None
        return self.deadline - min(reserved, max(0.0, self.deadline - time.monotonic()) / 2)
