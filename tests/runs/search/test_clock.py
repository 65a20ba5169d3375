"""Time limits of a search."""

from __future__ import annotations

import time

from autoq.runs.search.clock import SearchClock


def test_without_a_limit_everything_fits() -> None:
    clock = SearchClock(time.monotonic(), 1000.0)
    assert clock.deadline is clock.last_proposal(5.0) is None
    assert clock.fits(1e9)
    assert clock.seconds >= 1000.0, "what earlier runs took counts"


def test_what_follows_has_its_time_but_the_search_has_half() -> None:
    clock = SearchClock(time.monotonic(), limit_seconds=900.0)
    assert clock.deadline == clock.started + 900
    assert clock.last_proposal(5.0) == clock.started + 895
    latest = clock.last_proposal(1e6)
    assert latest is not None
    assert clock.started + 400 < latest <= clock.started + 900
    assert clock.fits(5.0)
    assert not clock.fits(1000.0)
    assert not SearchClock(time.monotonic() - 10, limit_seconds=5.0).fits(0.0)
