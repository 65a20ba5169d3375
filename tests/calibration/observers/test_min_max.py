"""Least and greatest values."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from autoq.calibration.observers import (
    BaseObserver,
    MinMaxObserver,
)


def observe(observer: BaseObserver, seen: list[Tensor]) -> tuple[Tensor, Tensor]:
    for batch in seen:
        observer.update(batch)
    return observer.bounds()


@given(
    st.lists(st.lists(st.floats(-1e6, 1e6, width=32), min_size=3, max_size=3), min_size=1, max_size=6),
    st.randoms(use_true_random=False),
)
def test_the_order_of_batches_does_not_matter_to_minimum_and_maximum(rows: list[list[float]], random: object) -> None:
    seen = [torch.tensor([row]) for row in rows]
    shuffled = list(seen)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    lower, upper = observe(MinMaxObserver((-1,)), seen)
    again = observe(MinMaxObserver((-1,)), shuffled)
    assert torch.equal(lower, again[0])
    assert torch.equal(upper, again[1])
    assert lower.flatten().tolist() == [min(column) for column in zip(*rows, strict=True)]
    assert upper.flatten().tolist() == [max(column) for column in zip(*rows, strict=True)]
