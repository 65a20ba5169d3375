"""The study: a driver that asks an Optuna sampler for recipes, has them evaluated and stores each once."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

from optuna.trial import FrozenTrial, TrialState

from autoq.cost import CostModel, Limits
from autoq.errors import RunError
from autoq.events import Progress, TrialFinished, ignore
from autoq.optimization.executors._base import BaseExecutor, Done, Job, Lost, Result
from autoq.optimization.executors.local import LocalExecutor
from autoq.optimization.front import non_dominated
from autoq.optimization.in_flight import InFlight
from autoq.optimization.objective import KnownLoss, Objective
from autoq.optimization.proposals import Proposal, Proposer
from autoq.optimization.samplers import AllocationPrior, SamplerEntry
from autoq.optimization.space.uniform_points import UniformPoint, uniform_points
from autoq.optimization.storage import TrialStore
from autoq.optimization.trials import ALLOCATION, UNIFORM, is_feasible
from autoq.recipe import CostRecord

_logger = logging.getLogger(__name__)

_MOST_REPEATS = 200
"""Proposals in a row that were evaluated before, the second half random, after which a space counts as exhausted."""
_FINAL_REPEATS = 3
"""The same for samplers that run out of proposals."""
_PRUNED_ABOVE = 2.0
"""Times the loss, over the same first images, of the best recipe that costs no more: a recipe that loses more is
pruned. Losses over a part of the images differ from those over all by much less."""
_MOST_AGAIN = 3
"""Times that a recipe whose evaluation was lost is evaluated again, before it counts as failed."""
_MOST_LOST = 8
"""Recipes in a row that failed so, after which it cannot be the recipes."""
_LOOK_SECONDS = 5.0
"""How often it is looked whether a deadline has passed without any worker."""


@dataclass(frozen=True)
class StudySettings:
    """How a study proposes and prunes recipes.

    Attributes:
        sampler: proposes recipes.
        seed: together with the number of stored trials, determines the proposals.
        proxy: name of the loss, for progress.
        prunes: whether a recipe is given up that loses much more over the first images than one that costs no more.
    """

    sampler: SamplerEntry
    seed: int = 0
    proxy: str = "kl"
    prunes: bool = True


class StudyDriver:
    """Keeps executors busy with proposals, and appends each finished trial to the store with a single write.

    Uniform points come first, to compare with and to start from. A proposal over the budget is brought under it before
    it is evaluated, and recorded as evaluated. What is in flight counts as proposed, and is no trial before it is
    finished: whatever ends the driver, the next one proposes in its place.
    """

    def __init__(
        self,
        prior: AllocationPrior,
        costs: CostModel,
        limits: Limits,
        store: TrialStore,
        settings: StudySettings,
        points: Sequence[UniformPoint] | None = None,
    ) -> None:
        """Take up the study where the store has left it.

        Args:
            prior: the decisions, and the knowledge that the sampler starts from.
            costs: of recipes of the model.
            limits: the budgets.
            store: finished trials; read now and appended to.
            settings: how recipes are proposed and pruned.
            points: the uniform points; None: those with the first schemes of the space.
        """
        points = uniform_points(prior.problem.space) if points is None else points
        self._space, self._costs, self._limits = prior.problem.space, costs, limits
        self._store, self._settings = store, settings
        past = store.load_trials()
        self._proposer = Proposer(prior, costs, limits, settings.sampler, settings.seed, points, past)
        self._done = self._begun = len(past)
        self._complete = [trial for trial in past if trial.state == TrialState.COMPLETE]
        self._lost_in_a_row = 0

    def run(
        self,
        executor: BaseExecutor,
        trials: int,
        deadline: float | None = None,
        progress: Progress = ignore,
        on_trial: Callable[[FrozenTrial], None] | None = None,
        seconds_after: float | None = None,
    ) -> None:
        """Evaluate until the study has ``trials`` trials, the space is exhausted, or the deadline passes.

        Args:
            executor: evaluates recipes.
            trials: stored trials to reach, the uniform points included (which are always evaluated).
            deadline: ``time.monotonic()`` after which nothing new is proposed, and nothing waited for where there is no
                worker.
            progress: told of every finished trial.
            on_trial: called with every stored trial, or None.
            seconds_after: how long the caller will take after that, for progress, or None.

        Raises:
            RunError: no worker evaluates anything, or a trial cannot be stored.
        """
        proposals = chain(self._proposer.uniform_points(), self._proposals(trials, deadline))
        for frozen in self._evaluated(proposals, executor, deadline):
            if on_trial is not None:
                on_trial(frozen)
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            affordable = [(t.values[0], t.values[1]) for t in self._complete if is_feasible(t)]
            front = non_dominated(affordable)
            least = affordable[front[-1]][1] if front else None
            total, size = max(trials, self._done), len(front)
            progress(TrialFinished(self._done, total, least, size, left, self._settings.proxy, seconds_after))

    def evaluate_allocation(self, objective: Objective) -> FrozenTrial | None:
        """Evaluate the exact allocation for the budgets, unless the study has it or has gone beyond it.

        Args:
            objective: evaluates it.

        Returns:
            The stored trial, or None.
        """
        if not self._space.decisions or any(t.user_attrs["origin"] != ALLOCATION for t in self._complete):
            return None
        proposal = self._proposer.allocation()
        if not self._proposer.is_new(proposal):
            return None
        [frozen] = self._evaluated([proposal], LocalExecutor(objective))
        return frozen

    def score_front(self, objective: Objective, on_trial: Callable[[FrozenTrial], None] | None = None) -> None:
        """Evaluate the front and the uniform points where that was not needed for their loss, and store them again.

        Args:
            objective: evaluates recipes.
            on_trial: called with every stored trial.
        """
        scored = {t.user_attrs["recipe_hash"] for t in self._complete if "score" in t.user_attrs}
        affordable = [t for t in self._complete if is_feasible(t)]
        front = [affordable[i] for i in non_dominated([(t.values[0], t.values[1]) for t in affordable])]
        uniform = [t for t in self._complete if t.user_attrs["origin"] == UNIFORM]
        for trial in {t.user_attrs["recipe_hash"]: t for t in (*uniform, *front)}.values():
            if trial.user_attrs["recipe_hash"] not in scored:
                executor = LocalExecutor(KnownLoss(objective, trial.values[1]))
                for frozen in self._evaluated([self._proposer.again(trial)], executor):
                    if on_trial is not None:
                        on_trial(frozen)

    def _proposals(self, trials: int, deadline: float | None) -> Iterator[Proposal]:
        """Ask for new recipes until there are enough trials, the deadline passes, or the sampler repeats itself."""
        is_finite = self._settings.sampler.is_finite
        most, repeats = _FINAL_REPEATS if is_finite else _MOST_REPEATS, 0
        # The first proposal, which is the allocated recipe of the budget, is evaluated whatever the time.
        is_first = all(trial.user_attrs["origin"] == UNIFORM for trial in self._complete)
        while (
            self._begun < trials
            and self._space.decisions
            and (is_first or deadline is None or time.monotonic() < deadline)
        ):
            # Some samplers repeat themselves long before a space is exhausted.
            proposal = self._proposer.ask(at_random=not is_finite and repeats >= _MOST_REPEATS // 2)
            if self._proposer.is_new(proposal):
                repeats, is_first = 0, False
                yield proposal
                continue
            repeats += 1
            if repeats >= most:
                _logger.info("the last %d proposals were all evaluated before: stopping", repeats)
                return

    def _evaluated(
        self, proposals: Iterable[Proposal], executor: BaseExecutor, deadline: float | None = None
    ) -> Iterator[FrozenTrial]:
        """Keep an executor's capacity filled with proposals, and yield trials as they are finished and stored."""
        waiting: Iterator[Proposal] | None = iter(proposals)
        in_flight: dict[int, InFlight] = {}
        while True:
            while waiting is not None and len(in_flight) < executor.capacity:
                if (proposal := next(waiting, None)) is None:
                    waiting = None
                else:
                    started = self._started(proposal)
                    in_flight[started.job.number] = started
                    executor.submit(started.job)
            if waiting is None and not in_flight:
                return
            back = executor.next_result(None if deadline is None else _LOOK_SECONDS)
            if back is None:
                if deadline is not None and time.monotonic() >= deadline and not executor.has_workers:
                    _logger.warning(
                        "the time is up, and no worker is there: what was to be evaluated (%d) is given up",
                        len(in_flight),
                    )
                    return
                continue
            if isinstance(back, Done) or (flying := in_flight.get(back.number)) is None:
                continue  # of an earlier phase, and no longer waited for
            if (result := self._accepted(flying, back)) is None:
                executor.submit(flying.job)
            else:
                yield self._stored(in_flight.pop(back.number), result)

    def _started(self, proposal: Proposal) -> InFlight:
        """Count a recipe in, and tell the sampler."""
        cost = self._costs.cost(proposal.sites).record()
        number = self._proposer.start(proposal, cost)
        self._begun += 1
        return InFlight(proposal, Job(number, proposal.sites, self._stop_above(proposal, cost)), cost)

    def _accepted(self, flying: InFlight, back: Result | Lost) -> Result | None:
        """Return the result to store, or None if the recipe is to be evaluated again.

        Raises:
            RunError: so many recipes in a row were lost for good that it cannot be the recipes.
        """
        if isinstance(back, Result):
            self._lost_in_a_row = 0
            return back
        flying.times_lost += 1
        if flying.times_lost <= _MOST_AGAIN:
            _logger.warning("an evaluation was lost, and is done again: %s", back.reason)
            return None
        self._lost_in_a_row += 1
        if self._lost_in_a_row >= _MOST_LOST:
            raise RunError(f"the last {self._lost_in_a_row} recipes could not be evaluated: {back.reason}")
        return Result(back.number, None, error=f"lost {flying.times_lost} times, at last: {back.reason}")

    def _stored(self, flying: InFlight, result: Result) -> FrozenTrial:
        """Store the outcome of a recipe and tell the sampler."""
        if result.evaluation is None:
            _logger.warning("a recipe failed: %s", result.error)
        frozen = flying.frozen(result, self._proposer.distributions, self._limits)
        frozen.number = self._store.append(frozen)
        self._proposer.finish(result.number, frozen.state, frozen.values)
        if frozen.state == TrialState.COMPLETE:
            self._complete.append(frozen)
        self._done += 1
        return frozen

    def _chosen(self, cost: CostRecord) -> int:
        return cost.amount(self._limits.chosen.field)

    def _stop_above(self, proposal: Proposal, cost: CostRecord) -> float:
        """Return the loss over the first images above which a recipe is pruned: by the best that costs no more."""
        if proposal.origin == UNIFORM or not self._settings.prunes:
            return math.inf
        most = self._chosen(cost)
        rivals = [t for t in self._complete if t.values[0] <= most and is_feasible(t) and "first_loss" in t.user_attrs]
        if not rivals:
            return math.inf
        rival = float(min(rivals, key=lambda trial: float(trial.values[1])).user_attrs["first_loss"])
        return _PRUNED_ABOVE * rival if rival > 0 else math.inf
