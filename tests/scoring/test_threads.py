"""The number of threads is chosen for a block and given back after it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from autoq.scoring.threads import fastest_threads, shared_threads

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def three_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


class Clock:
    """Time that passes only where a test says so: no other process makes a run take longer."""

    def __init__(self) -> None:
        self.now = 0.0

    def perf_counter(self) -> float:
        return self.now

    def work(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("autoq.scoring.threads.time", clock)
    return clock


def test_one_thread_where_more_do_not_help(clock: Clock) -> None:
    with fastest_threads(lambda: clock.work(1.0), CPU) as chosen:
        assert chosen == torch.get_num_threads() == 1
    assert torch.get_num_threads() == 3


def test_all_threads_where_they_do(clock: Clock) -> None:
    with fastest_threads(lambda: clock.work(3.0 / torch.get_num_threads()), CPU) as chosen:
        assert chosen == torch.get_num_threads() == 3
    assert torch.get_num_threads() == 3


@pytest.mark.parametrize(("processes", "each"), [(1, 3), (2, 1), (3, 1), (7, 1)])
def test_processes_share_the_threads(processes: int, each: int) -> None:
    with shared_threads(processes) as threads:
        assert threads == torch.get_num_threads() == each
    assert torch.get_num_threads() == 3


def test_nothing_is_run_where_there_is_no_choice() -> None:
    with shared_threads(3), fastest_threads(lambda: pytest.fail("must not run"), CPU) as chosen:
        assert chosen == torch.get_num_threads() == 1


def test_given_back_after_an_error() -> None:
    with pytest.raises(RuntimeError, match="boom"), fastest_threads(lambda: None, CPU):
        raise RuntimeError("boom")
    assert torch.get_num_threads() == 3


def test_other_devices_are_left_alone() -> None:
    with fastest_threads(lambda: pytest.fail("must not run"), torch.device("cuda")) as chosen:
        assert chosen == torch.get_num_threads() == 3
