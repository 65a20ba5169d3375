"""An Optuna sampler for many ordered choices, two objectives and a constraint: proposals around the front."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.samplers import BaseSampler, RandomSampler
from optuna.search_space import IntersectionSearchSpace
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState
from threadpoolctl import ThreadpoolController

from autoq.optimization.allocation.knapsack import FloatArray, IntArray
from autoq.optimization.front import KL_FLOOR_NATS, non_dominated
from autoq.optimization.samplers._base import PROPOSED
from autoq.optimization.samplers.additive_model import AdditiveModel, model_from_prior, model_from_study
from autoq.optimization.samplers.expected_gain import Front, Prediction, log_expected_gain
from autoq.optimization.samplers.neighbours import SiteFronts, StepSize, neighbours, novel, row_keys
from autoq.optimization.samplers.prior import AllocationPrior
from autoq.optimization.samplers.surrogate import Surrogate

_INITIAL_ALLOCATIONS = 20
"""Allocations of the prior that are proposed first, over the range of costs."""
_TARGETS = 8
"""Target costs besides the limit, half of them near costs of the front."""
_NEAR = (-0.03, 0.06)
"""How near, as a range of the logarithm of their ratio."""
_LOWEST = 1.02
"""Lowest target cost, in least costs: at the least cost there is nothing to choose."""
_PARENTS = 3
"""Recipes of the front, those nearest a target cost, that neighbours are made of."""
_NEIGHBOURS = 100
"""Neighbours that are made for each target cost."""
_COMPARED = 30
"""Of those, the ones that the whole surrogate compares."""
_TRIALS = 300
"""Trials, those of the front and nearest the target costs, that the surrogate learns from."""
_INITIAL_CHANGE = 0.05
"""Share of the sites that change in the first proposals."""
_HALVED_EVERY = 2
"""The number of sites that change halves every time as many trials as this many times the sites are done."""
_POSITIONS = (3, 1)
"""Positions of its front that a site moves at most: in the first proposals, and once a single site changes."""


class ProgressiveSampler(BaseSampler):
    """Proposes whole configurations near the front, in steps that narrow, by a surrogate's expected hypervolume.

    A proposal has several target costs: the limit, others near those of the front, others anywhere below. For each,
    neighbours are made of the nearest recipes of the front and of a new allocation of losses, drawn from what the
    surrogate has learned of them. They change many sites by several positions at first, and few by one later (the
    coarse-to-fine idea of AdaLog's FPCS, Wu et al., ECCV 2024, over bits, groups and bases together), and spend the
    target cost. The one of all that is expected to add most hypervolume is proposed. The surrogate is a Gaussian
    process whose mean is the sum of sensitivities (``autoq.optimization.samplers.surrogate``).

    For studies with two objectives to minimise, the second positive, whose parameters are categorical; choices that
    are numbers are taken as ordered, and other parameters are drawn at random. Constraints are those of the trials.
    With a prior (exact costs, sensitivities) the first proposals are exact allocations for a range of budgets. Without
    one, costs are learned as well, and trials are proposed at random until one is complete.

    Trials that run are believed to lose what the surrogate expects of them (the kriging believer of Ginsbourger, Le
    Riche and Carraro, 2010), so that several proposals in flight do not crowd around one place.

    Stateless: all is read from the study, so that several workers can share one; proposals are determined by the seed,
    the prior, the finished and the running trials and the trial's number.

    >>> def objective(trial):
    ...     bits = [trial.suggest_categorical(f"layer.{i}.bits", (2, 4, 8)) for i in range(4)]
    ...     return sum(bits), sum(4.0**-b for b in bits)
    >>> optuna.logging.set_verbosity(optuna.logging.WARNING)
    >>> study = optuna.create_study(directions=["minimize", "minimize"], sampler=ProgressiveSampler(seed=0))
    >>> study.optimize(objective, n_trials=10)
    >>> len(study.trials)
    10
    """

    def __init__(self, seed: int = 0, prior: AllocationPrior | None = None) -> None:
        """Determine all proposals by ``seed`` and ``prior``."""
        self._seed = seed
        self._prior = prior
        self._from_prior = None if prior is None else model_from_prior(prior)
        self._independent = RandomSampler(seed=seed)
        self._spaces = IntersectionSearchSpace()
        self._blas = ThreadpoolController()
        # Caches: they depend on parameters and the prior alone.
        self._encoded: dict[int, tuple[Mapping[str, Any], IntArray]] = {}
        self._allocations: dict[bytes, dict[str, Any]] | None = None

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:  # noqa: ARG002
        """List the categorical parameters: those of the prior, or else those that all trials have."""
        if self._prior is not None:
            return {**self._prior.distributions}
        found = self._spaces.calculate(study)
        return {name: kind for name, kind in found.items() if isinstance(kind, CategoricalDistribution)}

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Propose an initial allocation, or the neighbour of the front that is expected to gain most.

        Raises:
            ValueError: the study has not two objectives to minimise.
        """
        if study.directions != [StudyDirection.MINIMIZE] * 2:
            named = [direction.name.lower() for direction in study.directions]
            raise ValueError(
                f"the study's directions are {named}; ProgressiveSampler needs two objectives to minimise, a cost and "
                'a loss: directions=["minimize", "minimize"]'
            )
        proposed = study.get_trials(deepcopy=False, states=PROPOSED)
        tried = [t for t in proposed if search_space.keys() <= t.params.keys()]
        past = self._usable([t for t in tried if t.state == TrialState.COMPLETE])
        in_flight = self._usable([t for t in tried if t.state == TrialState.RUNNING])
        # Matrices this small only lose by threads, ten times over where cores are shared.
        with self._blas.limit(limits=1, user_api="blas"):
            if (allocation := self._next_allocation(tried)) is not None:
                return allocation
            space = {n: d for n, d in search_space.items() if isinstance(d, CategoricalDistribution)}
            if not past or not space:
                return {}
            model = self._from_prior or model_from_study(space, past)
            rng = np.random.default_rng((self._seed, trial.number))
            return model.decode(self._propose(model, past, in_flight, rng))

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """Draw a random value, for parameters that not all trials have."""
        return self._independent.sample_independent(study, trial, param_name, param_distribution)

    def reseed_rng(self) -> None:
        """Reseed random values in a parallel worker; whole proposals differ by the trial's number."""
        self._independent.reseed_rng()

    def _usable(self, past: list[FrozenTrial]) -> list[FrozenTrial]:
        """Leave out trials with an infinite loss of an option alone: there is no adding up, finite as they may be."""
        model = self._from_prior
        if model is None or not past or np.isfinite(model.loss).all():
            return past
        costs = model.costs(np.array([self._encode(model, trial) for trial in past]))
        return [trial for trial, cost in zip(past, costs, strict=True) if math.isfinite(cost)]

    def _next_allocation(self, tried: Sequence[FrozenTrial]) -> dict[str, Any] | None:
        """Find the first allocation of the prior, ever more finely spread, that no trial has, failed or not."""
        model = self._from_prior
        if self._prior is None or model is None:
            return None
        if self._allocations is None:
            problem = self._prior.problem
            budgets = self._prior.first_budgets(_INITIAL_ALLOCATIONS)
            swept = [a.assignment for a in problem.sweep(self._prior.table, budgets, gap=1e-3)]
            self._allocations = {model.encode(assignment).tobytes(): assignment for assignment in swept}
        done = {self._encode(model, trial).tobytes() for trial in tried}
        return next((a for key, a in self._allocations.items() if key not in done), None)

    def _encode(self, model: AdditiveModel, trial: FrozenTrial) -> IntArray:
        """Find the combinations (sites,) of a trial, once for each if that depends on the prior alone."""
        if self._prior is None:
            return model.encode(trial.params)
        params, combinations = self._encoded.get(trial.number, (None, None))
        if combinations is None or params is not trial.params:  # of another study
            params, combinations = trial.params, model.encode(trial.params)
            self._encoded[trial.number] = params, combinations
        return combinations

    def _propose(
        self,
        model: AdditiveModel,
        past: Sequence[FrozenTrial],
        in_flight: Sequence[FrozenTrial],
        rng: np.random.Generator,
    ) -> IntArray:
        """Choose the configuration, (sites,), to evaluate next."""
        known = _Known.of(
            np.array([self._encode(model, trial) for trial in past]),
            np.array([trial.values[0] for trial in past]),
            np.log(np.maximum([trial.values[1] for trial in past], KL_FLOOR_NATS)),
        )
        targets = _target_costs(model, known.cost[known.front], rng)
        near = known.nearest(targets)
        surrogate = Surrogate(model, known.combinations[near], known.logarithms[near])
        if in_flight:
            believed = np.array([self._encode(model, trial) for trial in in_flight])
            expected, _ = surrogate.predict(believed)
            known = known.joined(believed, model.costs(believed), expected)
            surrogate = surrogate.believing(believed, expected)
        candidates = _candidates(model, known, targets, surrogate.draw_losses(rng), rng)
        if not len(candidates):
            return np.asarray(known.combinations[known.front[-1]])
        predicted = Prediction(model.costs(candidates), *surrogate.predict(candidates))
        front = Front(known.cost[known.front], known.logarithms[known.front], model.least, model.limit)
        return np.asarray(candidates[int(np.argmax(log_expected_gain(front, predicted)))])


@dataclass(frozen=True, eq=False)
class _Known:
    """Trials whose values are known, or believed, as arrays.

    Attributes:
        combinations: (trials, sites).
        cost: (trials,) the first objective.
        logarithms: (trials,) of the second objective, in nats.
        front: (points,) the trials of the front, by ascending cost.
    """

    combinations: IntArray
    cost: FloatArray
    logarithms: FloatArray
    front: IntArray

    @classmethod
    def of(cls, combinations: IntArray, cost: FloatArray, logarithms: FloatArray) -> _Known:
        """Find the front of trials."""
        front = np.array(non_dominated([(c, math.exp(y)) for c, y in zip(cost, logarithms, strict=True)]))
        return cls(combinations, cost, logarithms, front)

    def joined(self, combinations: IntArray, cost: FloatArray, logarithms: FloatArray) -> _Known:
        """Return these trials and others."""
        return _Known.of(
            np.concatenate([self.combinations, combinations]),
            np.concatenate([self.cost, cost]),
            np.concatenate([self.logarithms, logarithms]),
        )

    def nearest(self, targets: FloatArray) -> IntArray:
        """Find the trials of the front, and those nearest any target cost, as many as the surrogate learns from."""
        distance = np.abs(self.cost[:, None] - targets).min(1)
        distance[self.front] = 0
        return np.argsort(distance, kind="stable")[:_TRIALS]

    def parents(self, targets: FloatArray) -> IntArray:
        """Find (targets, parents, sites) the configurations of the front nearest each target cost."""
        distance = np.abs(self.cost[self.front] - targets[:, None])  # (targets, points)
        return self.combinations[self.front[np.argsort(distance, axis=1, kind="stable")[:, :_PARENTS]]]


def _candidates(
    model: AdditiveModel, known: _Known, targets: FloatArray, losses: FloatArray, rng: np.random.Generator
) -> IntArray:
    """Make configurations (n, sites) near the front that are within the limit and not known.

    Args:
        model: sites, costs and expected losses.
        known: complete trials.
        targets: (targets,) costs that candidates spend.
        losses: (options,) drawn losses, by which sites move along their fronts.
        rng: of all that is random.
    """
    fronts = SiteFronts(model, losses)
    parents = known.parents(targets)
    if model.allocate is not None:
        parents = np.concatenate([parents, model.allocate(losses, targets)[:, None]], axis=1)
    target = np.repeat(np.arange(len(targets)), _NEIGHBOURS)
    chosen = parents[target, rng.integers(parents.shape[1], size=len(target))]
    made = neighbours(fronts, chosen, targets[target], _step_size(len(model.movable), len(known.cost)), rng)
    taken = set(row_keys(model.options(known.combinations)))
    candidates = novel(model, np.vstack([made, parents[:, -1]]), taken)
    candidates = candidates[model.within(candidates)]
    return candidates if model.allocate is None else _best_for_each(model, candidates, losses, targets)


def _step_size(sites: int, trials: int) -> StepSize:
    """Narrow the step with the number of complete trials."""
    changed = _INITIAL_CHANGE * sites * 0.5 ** (trials / (_HALVED_EVERY * sites))
    return StepSize(max(1.0, changed), _POSITIONS[0] if changed > 1 else _POSITIONS[1])


def _best_for_each(model: AdditiveModel, candidates: IntArray, losses: FloatArray, targets: FloatArray) -> IntArray:
    """Keep those of the candidates nearest below each target cost that have the least sum of losses."""
    order = np.sort(targets)
    group = np.searchsorted(order, model.costs(candidates))
    expected = losses[model.options(candidates)].sum(1)
    ranked = np.lexsort((expected, group))
    position = np.arange(len(ranked)) - np.searchsorted(group[ranked], group[ranked])
    return np.asarray(candidates[np.sort(ranked[position < _COMPARED])])


def _target_costs(model: AdditiveModel, front: FloatArray, rng: np.random.Generator) -> FloatArray:
    """Choose costs: the limit, others near some of the front's, and others anywhere on a logarithmic scale."""
    low, high = min(_LOWEST * model.least, model.limit), model.limit
    near = rng.choice(front, _TARGETS // 2) * np.exp(rng.uniform(*_NEAR, _TARGETS // 2))
    share = rng.random(_TARGETS - _TARGETS // 2)
    # Costs are positive where they are BOPs.
    far = low * (high / low) ** share if low > 0 else low + (high - low) * share
    return np.concatenate([[high], np.clip(near, low, high), np.clip(far, low, high)])
