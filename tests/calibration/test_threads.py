"""Work side by side: order, threads of PyTorch, errors."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
import torch

from autoq.calibration.threads import in_threads


@pytest.fixture(autouse=True)
def three_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


def test_results_are_in_the_order_of_the_items() -> None:
    """The first item waits for the second, which another thread must therefore work on."""
    second_done = threading.Event()

    def work(item: int) -> int:
        if item == 0:
            assert second_done.wait(timeout=3600)
        second_done.set()
        return 10 * item

    assert list(in_threads(work, range(5), 2)) == [0, 10, 20, 30, 40]


@pytest.mark.parametrize("workers", [1, 2])
def test_pytorch_has_one_thread_meanwhile(workers: int) -> None:
    results = in_threads(lambda _: torch.get_num_threads(), range(3), workers)
    assert next(results) == 1
    results.close()
    assert torch.get_num_threads() == 3
    assert list(in_threads(lambda item: item, [], workers)) == []
    assert torch.get_num_threads() == 3


@pytest.mark.parametrize("workers", [1, 2])
def test_an_error_is_passed_on(workers: int) -> None:
    def work(item: int) -> int:
        if item == 1:
            raise ValueError("boom")
        return item

    results = in_threads(work, range(3), workers)
    assert next(results) == 0
    with pytest.raises(ValueError, match="boom"):
        next(results)
    assert torch.get_num_threads() == 3


def test_one_worker_does_not_work_ahead() -> None:
    begun: list[int] = []
    results = in_threads(begun.append, range(3), 1)
    next(results)
    assert begun == [0]
    results.close()
    assert begun == [0]
