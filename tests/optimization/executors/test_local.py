from __future__ import annotations

from autoq.optimization.executors._base import Job
from autoq.optimization.executors.local import LocalExecutor
from tests.contracts.executors import ExecutorContract, recipe
from tests.optimization.executors.simulated import SimulatedSpecification


class TestLocal(ExecutorContract):
    name = "local"
    workers = 1


def test_nothing_is_evaluated_before_it_is_asked_for() -> None:
    evaluated = []
    specification = SimulatedSpecification()

    def measure(sites, keep_going=None):  # type: ignore[no-untyped-def]
        evaluated.append(sites)
        return specification.measure(sites, keep_going)

    executor = LocalExecutor(measure)
    executor.submit(Job(0, recipe(2)))
    assert (executor.capacity, evaluated) == (1, [])
    assert executor.next_result() is not None
    assert evaluated == [recipe(2)]
    assert executor.next_result() is None
