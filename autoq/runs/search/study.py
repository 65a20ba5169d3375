"""The study of a search: its driver, and the objectives that recipes are evaluated by."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from optuna.trial import FrozenTrial

from autoq.cost import CostModel, Limits
from autoq.events import Progress
from autoq.optimization.allocation.problem import AllocationProblem
from autoq.optimization.executors._base import BaseExecutor
from autoq.optimization.objective import AdditiveObjective, JointObjective, Objective, ScoredObjective
from autoq.optimization.samplers import SAMPLERS, AllocationPrior
from autoq.optimization.space import ResolvedSpace
from autoq.optimization.space.uniform_points import UniformPoint
from autoq.optimization.storage import TrialStore
from autoq.optimization.study import StudyDriver, StudySettings
from autoq.runs.search.settings import SearchSettings
from autoq.sensitivity.proxies import PROXIES
from autoq.sensitivity.table import SensitivityTable


@dataclass(frozen=True)
class SearchStudy:
    """What a search proposes and evaluates.

    Attributes:
        space: the decisions.
        costs: of recipes.
        settings: of the search.
        limits: the budgets.
        store: of finished trials.
        table: losses of options alone, or None where the sampler needs none.
        points: the uniform points.
        joint: evaluates recipes in this process.
    """

    space: ResolvedSpace
    costs: CostModel
    settings: SearchSettings
    limits: Limits
    store: TrialStore
    table: SensitivityTable | None
    points: list[UniformPoint]
    joint: JointObjective

    @property
    def objective(self) -> Objective:
        """What is minimised, measured in this process."""
        is_additive = PROXIES[self.settings.proxy].is_additive
        return AdditiveObjective(self.table) if self.table is not None and is_additive else self.joint

    def evaluate_allocation(self) -> FrozenTrial | None:
        """Evaluate the exact allocation; None where nothing is known of options alone, or the study is beyond it."""
        if self.table is None:
            return None
        objective = self.objective
        scored = objective if objective is self.joint else ScoredObjective(objective, self.joint)
        return self._driver().evaluate_allocation(scored)

    def run(
        self,
        executor: BaseExecutor,
        trials: int,
        deadline: float | None,
        progress: Progress,
        on_trial: Callable[[FrozenTrial], None],
        seconds_after: float | None,
    ) -> None:
        """Evaluate recipes that the sampler proposes, and score the front; arguments as ``StudyDriver.run``."""
        driver = self._driver()
        driver.run(executor, trials, deadline, progress, on_trial, seconds_after)
        driver.score_front(self.joint, on_trial)

    def _driver(self) -> StudyDriver:
        """Take up the study where the store has left it."""
        problem = AllocationProblem(self.costs, self.space, self.limits)
        return StudyDriver(
            prior=AllocationPrior.of(problem, self.table, self.limits.limit),
            costs=self.costs,
            limits=self.limits,
            store=self.store,
            settings=StudySettings(SAMPLERS[self.settings.sampler], self.settings.seed, self.settings.proxy),
            points=self.points,
        )
