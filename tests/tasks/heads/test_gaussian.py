from __future__ import annotations

import pytest
import torch

from autoq.errors import TaskError
from autoq.tasks.heads import GaussianHead
from tests.contracts.heads import HeadContract


class TestGaussian(HeadContract):
    cases = [(GaussianHead(variance=0.25), (3, 2), (3, 2)), (GaussianHead(variance=2.0), (), ())]  # noqa: RUF012


def test_an_unknown_variance_divides_nothing() -> None:
    with pytest.raises(TaskError, match="not known yet"):
        GaussianHead().divergence(torch.zeros(1, 2), torch.ones(1, 2))
