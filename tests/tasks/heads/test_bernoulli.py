from __future__ import annotations

import math

import pytest
import torch

from autoq.tasks.heads import BernoulliHead, CategoricalHead
from tests.contracts.heads import HeadContract


class TestBernoulli(HeadContract):
    cases = [  # noqa: RUF012
        (BernoulliHead(), (3, 4), (3,)),
        (BernoulliHead(axes=2, relative=True, weight=0.5), (2, 3, 2), (2,)),
    ]


def test_it_sees_what_softmax_does_not() -> None:
    """All logits lower by the same: softmax stays, every independent class becomes less likely."""
    logits = torch.tensor([[[0.0, 1.0, 2.0]]], dtype=torch.float64)
    assert float(CategoricalHead().divergence(logits, logits - 3)) == pytest.approx(0, abs=1e-12)
    p = logits.sigmoid()
    q = (logits - 3).sigmoid()
    expected = float((p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()).sum())
    assert float(BernoulliHead().divergence(logits, logits - 3)) == pytest.approx(expected)


def test_presence_is_the_probability_of_any_class() -> None:
    logits = torch.tensor([[[0.0, math.log(3)]]])
    assert float(BernoulliHead().presence(logits)) == pytest.approx(1 - 0.5 * 0.25)


def test_a_mask_counts_by_the_share_of_it_that_changes() -> None:
    """A mask of four times the pixels whose every pixel changes alike loses as much, an empty one next to nothing."""
    head = BernoulliHead(axes=2, relative=True)

    def divergence(side: int) -> float:
        logits = torch.full((1, 1, 16, 16), -12.0, dtype=torch.float64)
        logits[..., :side, :side] = 4.0
        changed = logits.clone()
        changed[..., :side, :side] = 1.0
        return float(head.divergence(logits, changed))

    assert divergence(8) == pytest.approx(divergence(4), rel=1e-3)
    assert divergence(4) > 0.1
    assert divergence(0) == 0.0
