"""Choose how many threads an evaluation runs on: small models are no faster on many, and slower on shared machines."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

_WORTH_IT = 0.75
"""Share of the single-threaded time that all threads must stay below."""


@contextmanager
def fastest_threads(run: Callable[[], object], device: torch.device) -> Iterator[int]:
    """Run the block on one thread, unless ``run`` is clearly faster on all that PyTorch would use.

    Args:
        run: what the block does most of; called a few times.
        device: nothing is changed on other devices than a CPU.

    Yields:
        The number of threads.
    """
    threads = torch.get_num_threads()
    if device.type != "cpu" or threads == 1:
        yield threads
        return
    try:
        run()  # the first call warms caches up
        seconds = {}
        for count in (threads, 1):
            torch.set_num_threads(count)
            started = time.perf_counter()
            run()
            seconds[count] = time.perf_counter() - started
        chosen = threads if seconds[threads] < _WORTH_IT * seconds[1] else 1
        torch.set_num_threads(chosen)
        yield chosen
    finally:
        torch.set_num_threads(threads)
