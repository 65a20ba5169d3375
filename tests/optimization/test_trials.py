"""Choosing among trials as people meet them."""

from __future__ import annotations

from itertools import pairwise
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoq.cost import Limits
from autoq.optimization.trials import (
    EvaluatedTrial,
    best_trial,
    chosen_trials,
    evenly_spread,
    knee_trial,
    shown_trials,
)
from autoq.recipe import CostRecord, ScoreRecord


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


def trial(number: int, proxy: str, bops: int, kl: float, agreement: float, mse: float) -> EvaluatedTrial:
    cost = CostRecord(bops=bops, group_bops=0, weight_layers_only_bops=0, weight_bytes=1)
    score = ScoreRecord(kl_nats=kl, agreement_percent=agreement, sqnr_db=1.0, output_mse=mse, images=8)
    return EvaluatedTrial(f"trial-{number}", f"trial {number}", "sampler", {}, cost, score, proxy)


@pytest.mark.parametrize(
    ("proxy", "front", "best", "bend"),
    [
        ("kl", ["trial-1", "trial-2", "trial-3"], "trial-3", "trial-2"),
        ("mse", ["trial-0", "trial-2"], "trial-2", "trial-2"),
        ("agreement", ["trial-1", "trial-3"], "trial-3", "trial-3"),
        ("fisher", ["trial-1", "trial-2", "trial-3"], "trial-3", "trial-2"),
    ],
)
def test_trials_are_chosen_by_what_was_minimised(proxy: str, front: list[str], best: str, bend: str) -> None:
    """One that needs no evaluation stands for KL, by which its front is evaluated."""
    trials = [
        trial(0, proxy, 10, kl=0.9, agreement=10.0, mse=0.5),
        trial(1, proxy, 10, kl=0.8, agreement=50.0, mse=0.6),
        trial(2, proxy, 20, kl=0.01, agreement=40.0, mse=0.1),
        trial(3, proxy, 40, kl=0.009, agreement=90.0, mse=0.3),
        trial(4, proxy, 99, kl=0.0, agreement=100.0, mse=0.0),
    ]
    found, _ = shown_trials(trials, Limits({"bops": 50}))
    assert [each.id for each in found] == front
    chosen = best_trial(found, Limits({"bops": 50}))
    assert chosen is not None
    assert (chosen.id, knee_trial(found).id) == (best, bend)
    assert best_trial(found, Limits({"bops": 5})) is None


def test_the_best_and_the_knee_are_chosen() -> None:
    limits = Limits({"bops": 100})
    front = [trial(n, "kl", bops, kl, 0.0, 0.0) for n, (bops, kl) in enumerate([(10, 1.0), (20, 0.011), (100, 0.01)])]
    assert [each.id for each in chosen_trials(front, limits)] == ["trial-2", "trial-1"]
    assert [each.id for each in chosen_trials(front[:2], limits)] == ["trial-1"], "once if they are the same"
    assert chosen_trials([], limits) == []
