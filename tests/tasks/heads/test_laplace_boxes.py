from __future__ import annotations

import math

import pytest
import torch

from autoq.tasks.heads import LaplaceBoxesHead
from tests.contracts.heads import HeadContract


class TestLaplaceBoxes(HeadContract):
    cases = [(LaplaceBoxesHead(), (3, 4), (3,)), (LaplaceBoxesHead(weight=0.2, relative_scale=0.3), (2, 4), (2,))]  # noqa: RUF012


def test_errors_count_in_proportion_to_the_box() -> None:
    head = LaplaceBoxesHead()
    box = torch.tensor([[[0.5, 0.5, 0.2, 0.4]]], dtype=torch.float64)
    for number, scale in enumerate((0.02, 0.04, 0.02, 0.04)):
        for x in (1e-4, 9e-3, 1.1e-2, 3.0):
            moved = box.clone()
            moved[..., number] += x * scale
            assert float(head.divergence(box, moved)) == pytest.approx(x + math.exp(-x) - 1, rel=1e-6)


def test_a_box_without_size_divides_by_the_least_side() -> None:
    head = LaplaceBoxesHead()
    box = torch.zeros(1, 1, 4)
    assert float(head.divergence(box, box + torch.tensor([0.001, 0, 0, 0]))) == pytest.approx(math.exp(-1), rel=1e-5)
