"""Choosing among trials as people meet them."""

from __future__ import annotations

from itertools import pairwise
from typing import Any, cast

from hypothesis import given
from hypothesis import strategies as st

from autoq.optimization.trials import evenly_spread


@given(st.integers(1, 60), st.integers(1, 30))
def test_a_spread_has_the_best_and_no_more_than_wanted(count: int, most: int) -> None:
    front: list[Any] = list(range(count))
    chosen = cast(list[int], evenly_spread(front, most))
    assert len(chosen) == len(set(chosen)) == min(count, most)
    assert chosen == sorted(chosen)
    assert chosen[-1] == count - 1
    if most > 1:
        assert chosen[0] == 0
        gaps = [b - a for a, b in pairwise(chosen)]
        assert not gaps or max(gaps) - min(gaps) <= 1
