"""What every executor must fulfil. Inherit :class:`ExecutorContract` in a ``Test...`` class and give its name."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytest
from optuna.trial import TrialState

from autoq.errors import RecipeError, WorkerRefusedError
from autoq.optimization.executors import EXECUTORS
from autoq.optimization.executors._base import BaseExecutor, ExecutorContext, Job, Lost, Outcome, Result
from autoq.optimization.executors.chunks import ChunkRunner
from autoq.recipe import OperandConfig, SiteConfig, hash_sites
from tests.optimization.executors.simulated import SimulatedChunk, SimulatedSpecification, made_up_loss
from tests.optimization.test_study import Problem, params

SECONDS = 120.0
"""After which what does not come back counts as gone, on a machine however loaded."""


def recipe(bits: int) -> dict[str, SiteConfig]:
    """A recipe for each number of bits."""
    return {"head": {"weight": OperandConfig(scheme="uniform", bits=bits, granularity="channel")}}


class ExecutorContract:
    """Checks for one executor, with workers that make losses up."""

    name: ClassVar[str]
    workers: ClassVar[int] = 2
    counts_the_dead: ClassVar[bool] = False
    """Whether a worker that has ended counts for a while, so that more is in flight after that."""

    def make(self, specification: SimulatedSpecification, folder: Path, workers: int | None = None) -> BaseExecutor:
        context = ExecutorContext(specification.measure, specification, workers or self.workers, folder)
        return EXECUTORS[self.name].make(context)

    def back(self, executor: BaseExecutor, count: int) -> Sequence[Outcome]:
        """Wait for ``count`` jobs to come back."""
        found: list[Outcome] = []
        deadline = time.monotonic() + SECONDS
        while len(found) < count:
            outcome = executor.next_result(SECONDS)
            assert time.monotonic() < deadline
            found += [] if outcome is None else [outcome]
        return found

    def test_every_job_comes_back_once_with_its_own_outcome(self, tmp_path: Path) -> None:
        fates = {hash_sites(recipe(7)): "nan", hash_sites(recipe(6)): "memory"}
        with self.make(SimulatedSpecification(fates), tmp_path) as executor:  # type: ignore[arg-type]
            for bits in range(2, 9):
                executor.submit(Job(bits, recipe(bits)))
            stopped = made_up_loss(recipe(5))
            executor.submit(Job(50, recipe(5), stop_above=1.9 * stopped))
            executor.submit(Job(51, recipe(5), stop_above=2 * stopped))
            outcomes = {outcome.number: outcome for outcome in self.back(executor, 9)}
            assert outcomes.keys() == {*range(2, 9), 50, 51}
        for bits in (2, 3, 4, 5, 8):
            done = outcomes[bits]
            assert isinstance(done, Result)
            assert done.evaluation is not None
            assert done.evaluation.is_complete
            assert done.evaluation.loss == made_up_loss(recipe(bits))
            assert done.first_loss == 2 * done.evaluation.loss
        assert outcomes[6] == Lost(6, "RuntimeError: cannot allocate 1 TB")
        failed, pruned, whole = outcomes[7], outcomes[50], outcomes[51]
        assert isinstance(failed, Result)
        assert (failed.evaluation, failed.error) == (None, "head is not finite")
        assert isinstance(pruned, Result)
        assert isinstance(whole, Result)
        assert pruned.evaluation is not None
        assert whole.evaluation is not None
        assert (pruned.evaluation.is_complete, whole.evaluation.is_complete) == (False, True)

    @pytest.mark.parametrize("workers", [1, 3])
    def test_a_whole_study(self, tmp_path: Path, workers: int) -> None:
        """Nothing is proposed twice, the budget is kept, and a recipe that cannot be evaluated fails alone."""
        most = EXECUTORS[self.name].most_workers
        if most is not None and workers > most:
            pytest.skip(f"has {most} worker at most")
        (tmp_path / "local").mkdir()
        alone = Problem(tmp_path / "local")
        trials = alone.run(30, "progressive")
        poison = trials[20]
        fates = {str(poison.user_attrs["recipe_hash"]): "kill" if EXECUTORS[self.name].rebuilds else "memory"}
        problem = Problem(tmp_path)
        with self.make(SimulatedSpecification(fates), tmp_path, workers) as executor:  # type: ignore[arg-type]
            assert executor.capacity <= workers + 1
            problem.driver("progressive").run(executor, 30)
        stored = problem.stored()
        assert [trial.number for trial in stored] == list(range(30))
        assert len({trial.user_attrs["recipe_hash"] for trial in stored}) == 30
        assert all(trial.constraints["bops"] <= 0 for trial in stored if not trial.user_attrs["label"])
        for trial in stored:
            sites = problem.space.sites_for(trial.params)
            assert hash_sites(sites) == trial.user_attrs["recipe_hash"]
            if trial.state == TrialState.COMPLETE:
                assert trial.values[1] == made_up_loss(sites), "each its own"
        failed = [trial for trial in stored if trial.state == TrialState.FAIL]
        if workers == 1:
            assert params(stored[:20]) == params(trials[:20]), "takes the course that it takes locally"
            assert [trial.number for trial in failed] == [20] or (self.counts_the_dead and len(failed) == 1)
        for trial in failed:
            assert trial.params == poison.params
            assert trial.user_attrs["error"].startswith("lost 4 times, at last: ")

    def test_a_worker_that_is_not_fit_is_refused(self, tmp_path: Path) -> None:
        if not EXECUTORS[self.name].rebuilds:
            pytest.skip("has no other workers than the driver")
        with self.make(SimulatedSpecification(refused=True), tmp_path) as executor:
            executor.submit(Job(0, recipe(2)))
            with pytest.raises(WorkerRefusedError, match=r"torch \(was '2', is '3'\)"):
                self.back(executor, 1)

    def test_chunks_are_done_by_workers_or_by_the_driver(self, tmp_path: Path) -> None:
        """Each once, whatever becomes of a worker; those that are lost by the driver."""
        specification = SimulatedSpecification()
        rebuilds = EXECUTORS[self.name].rebuilds
        with self.make(specification, tmp_path) as executor:
            runner = ChunkRunner(None, executor)
            assert runner.is_shared
            if rebuilds:  # the driver does not wait for workers: so that one is there
                executor.submit(Job(0, recipe(2)))
                self.back(executor, 1)
            fates: dict[int, Any] = {3: "memory", 5: "kill"} if rebuilds else {}
            chunks = [SimulatedChunk(number, fates.get(number, "")) for number in range(8)]
            found = dict(runner.run(iter(chunks)))
            assert {position: number for position, (number, _) in found.items()} == {n: n for n in range(8)}
            assert found[3][1] is found[5][1] is None, "the driver"
            if rebuilds:
                assert {found[position][1] for position in (0, 1, 2)} != {None}
            with pytest.raises(RecipeError, match="no such site"):
                list(runner.run([SimulatedChunk(0, "refused")]))

    def test_it_is_listed(self) -> None:
        assert EXECUTORS[self.name].description
