"""The number of threads is chosen for a block and given back after it."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
import torch

from autoq.scoring.threads import fastest_threads

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def three_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


def test_one_thread_where_more_do_not_help() -> None:
    with fastest_threads(lambda: time.sleep(0.01), CPU) as chosen:
        assert chosen == torch.get_num_threads() == 1
    assert torch.get_num_threads() == 3


def test_all_threads_where_they_do() -> None:
    with fastest_threads(lambda: time.sleep(0.03 / torch.get_num_threads()), CPU) as chosen:
        assert chosen == torch.get_num_threads() == 3
    assert torch.get_num_threads() == 3


def test_given_back_after_an_error() -> None:
    with pytest.raises(RuntimeError, match="boom"), fastest_threads(lambda: time.sleep(0.001), CPU):
        raise RuntimeError("boom")
    assert torch.get_num_threads() == 3


def test_other_devices_are_left_alone() -> None:
    with fastest_threads(lambda: pytest.fail("must not run"), torch.device("cuda")) as chosen:
        assert chosen == 3
