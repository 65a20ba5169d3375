from __future__ import annotations

import torch

from autoq.tasks.heads import CategoricalHead
from tests.contracts.heads import HeadContract


class TestCategorical(HeadContract):
    cases = [  # noqa: RUF012
        (CategoricalHead(), (5,), ()),
        (CategoricalHead(weight=2.5), (3, 4), (3,)),
        (CategoricalHead(axis=1), (4, 2, 2), (2, 2)),
    ]


def test_the_axis_of_classes_does_not_matter() -> None:
    first, second = torch.randn(2, 3, 2, 2, 4, generator=torch.Generator().manual_seed(0))
    last = CategoricalHead().divergence(first, second)
    moved = CategoricalHead(axis=1).divergence(first.movedim(-1, 1), second.movedim(-1, 1))
    torch.testing.assert_close(last, moved)
