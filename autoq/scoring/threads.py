"""Choose how many threads an evaluation runs on: small models are no faster on many, and slower on shared machines."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

_WORTH_IT = 0.75
"""Share of the single-threaded time that all threads must stay below."""


@contextmanager
def shared_threads(processes: int) -> Iterator[int]:
    """Leave other processes of this machine their share of the threads that PyTorch would use in the block.

    Threads that wait for each other while other processes have their cores take several times as long as one.

    Args:
        processes: that share them, at least one.

    Yields:
        The number of threads.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(max(1, before // processes))
    try:
        yield torch.get_num_threads()
    finally:
        torch.set_num_threads(before)


@contextmanager
def fastest_threads(run: Callable[[], object], device: torch.device) -> Iterator[int]:
    """Run the block on one thread, unless ``run`` is clearly faster on all that PyTorch would use.

    Args:
        run: what the block does most of; called a few times if there is a choice.
        device: nothing is changed on other devices than a CPU.

    Yields:
        The number of threads.
    """
    threads = torch.get_num_threads()
    if device.type != "cpu" or threads == 1:
        yield threads
        return
    try:
        chosen = threads if _are_worth_it(run, threads) else 1
        torch.set_num_threads(chosen)
        yield chosen
    finally:
        torch.set_num_threads(threads)


def _are_worth_it(run: Callable[[], object], threads: int) -> bool:
    """Tell whether ``run`` is clearly faster on several threads than on one."""
    seconds = {}
    torch.set_num_threads(threads)
    run()  # the first call warms caches up
    for count in (threads, 1):
        torch.set_num_threads(count)
        started = time.perf_counter()
        run()
        seconds[count] = time.perf_counter() - started
    return seconds[threads] < _WORTH_IT * seconds[1]
