"""An Optuna sampler for many ordered choices, two objectives and a constraint: proposals around the front."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.samplers import BaseSampler, RandomSampler
from optuna.search_space import IntersectionSearchSpace
from optuna.trial import FrozenTrial, TrialState
from threadpoolctl import ThreadpoolController

from autoq.search.front import log10_kl, non_dominated

_Floats = npt.NDArray[np.floating[Any]]
_Ints = npt.NDArray[np.int64]

_CANDIDATES = 256
"""Neighbours of one parent that the model compares before one is proposed."""
_WIDEST = 0.06
"""Share of the decisions that change in the first proposals."""
_NARROWEST = 2
"""Decisions that change in a proposal once the step has narrowed."""
_LOCALITY = 0.5
"""Distance in log2 of the first objective at which a trial counts 1/e in the model of a parent."""
_NOISE = 0.03
"""Standard deviation, in decades of the second objective, of what the linear model leaves unexplained."""
_TOLERANCE = 0.01
"""Expected excess over the cost limit that is let pass."""
_PENALTY = 100
"""Decades of loss that one unit of excess (of a constraint, or a doubled cost) weighs as much as."""
_PRIOR = 0.1
"""Standard deviation, in decades, of what moving one decision through all its choices changes."""


class ProgressiveSampler(BaseSampler):
    """Proposes whole configurations near the front, changing many decisions at first and few later.

    A proposal starts from a non-dominated feasible trial, most often the one with the least second objective. Random
    neighbours of it are compared by a Bayesian linear model of the logarithm of the second objective, fitted to all
    trials but most of all to those of similar first objective, one draw of whose coefficients is used (Thompson
    sampling); those that the same kind of model expects to cost more than the constraint allows are passed over.
    The number of decisions that change halves every time as many trials as there are decisions are done: the
    coarse-to-fine idea of AdaLog's FPCS (Wu et al., ECCV 2024), over the joint space.

    For studies with two minimised objectives, the second positive, whose parameters are categorical; choices that are
    numbers are taken as ordered. Constraints are those of the trials. Stateless: all is read from the study, so that
    several workers can share one; proposals are determined by the seed and the number of trials. Random until a trial
    is complete.
    """

    def __init__(self, seed: int = 0) -> None:
        """Determine all proposals by ``seed``."""
        self._seed = seed
        self._independent = RandomSampler(seed=seed)
        self._spaces = IntersectionSearchSpace()
        self._blas = ThreadpoolController()

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:  # noqa: ARG002
        """The categorical parameters that all trials have."""
        space = self._spaces.calculate(study)
        return {name: kind for name, kind in space.items() if isinstance(kind, CategoricalDistribution)}

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """A neighbour of the front."""
        complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        past = [t for t in complete if search_space.keys() <= t.params.keys()]
        if not past or not search_space:
            return {}
        rng = np.random.default_rng((self._seed, trial.number))
        space = _Space.of({n: d for n, d in search_space.items() if isinstance(d, CategoricalDistribution)})
        history = _History.of(space, past)
        parent = history.choose_parent(rng)
        step = max(_NARROWEST, _WIDEST * len(space.names) * 0.5 ** (len(past) / len(space.names)))
        candidates = space.neighbours(history.indices[parent], step, rng)
        # Matrices this small only lose by threads, ten times over where cores are shared.
        with self._blas.limit(limits=1, user_api="blas"):
            chosen = history.choose_candidate(space, candidates, parent, rng)
        return space.params(candidates[chosen])

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """A random value, for parameters that not all trials have."""
        return self._independent.sample_independent(study, trial, param_name, param_distribution)

    def reseed_rng(self) -> None:
        """Optuna calls this in parallel workers; proposals differ by trial number instead."""


@dataclass(frozen=True)
class _Space:
    """Parameters as positions among their choices, and as features of a linear model.

    Attributes:
        names: of the parameters.
        choices: of each; ordered ones ascending.
        ordered: which have numbers only.
        offsets: first feature of each; ordered parameters have one feature, others one a choice.
    """

    names: tuple[str, ...]
    choices: tuple[tuple[Any, ...], ...]
    ordered: npt.NDArray[np.bool_]
    offsets: _Ints

    @classmethod
    def of(cls, space: dict[str, CategoricalDistribution]) -> _Space:
        names = tuple(sorted(space))
        ordered = [all(isinstance(c, int | float) for c in space[name].choices) for name in names]
        choices = tuple(
            tuple(sorted(space[name].choices)) if is_ordered else tuple(space[name].choices)  # type: ignore[type-var]
            for name, is_ordered in zip(names, ordered, strict=True)
        )
        widths = [1 if is_ordered else len(options) for is_ordered, options in zip(ordered, choices, strict=True)]
        return cls(names, choices, np.array(ordered), np.concatenate([[0], np.cumsum(widths)]))

    def indices(self, params: dict[str, Any]) -> list[int]:
        """Positions of a configuration's choices."""
        return [options.index(params[name]) for name, options in zip(self.names, self.choices, strict=True)]

    def params(self, indices: _Ints) -> dict[str, Any]:
        """A configuration from positions."""
        return {n: options[int(i)] for n, options, i in zip(self.names, self.choices, indices, strict=True)}

    def features(self, indices: _Ints) -> _Floats:
        """Of shape (n, features), from positions of shape (n, parameters)."""
        result = np.zeros((len(indices), int(self.offsets[-1]) + 1))
        result[:, -1] = 1.0
        rows = np.arange(len(indices))
        for column, (options, is_ordered) in enumerate(zip(self.choices, self.ordered, strict=True)):
            if is_ordered:
                result[:, self.offsets[column]] = indices[:, column] / max(1, len(options) - 1)
            else:
                result[rows, self.offsets[column] + indices[:, column]] = 1.0
        return result

    def neighbours(self, parent: _Ints, step: float, rng: np.random.Generator) -> _Ints:
        """``_CANDIDATES`` configurations with about ``step`` decisions changed, ordered ones by one place."""
        count = len(self.names)
        sizes = np.array([len(options) for options in self.choices])
        changed = rng.random((_CANDIDATES, count)) < step / count
        changed[np.arange(_CANDIDATES), rng.integers(count, size=_CANDIDATES)] = True
        one_up_or_down = parent + rng.choice([-1, 1], size=changed.shape)
        another = (parent + rng.integers(1, np.maximum(sizes, 2), size=changed.shape)) % sizes
        moved = np.where(self.ordered, np.clip(one_up_or_down, 0, sizes - 1), another)
        return np.where(changed, moved, parent)


@dataclass(frozen=True)
class _History:
    """Complete trials as arrays.

    Attributes:
        indices: positions of their choices, of shape (trials, parameters).
        features: of shape (trials, features).
        cost: log2 of the first objective.
        loss: log10 of the second objective.
        violation: greatest constraint value, 0 without constraints; feasible is ≤ 0.
        front: non-dominated feasible trials, by ascending cost; all trials' front if none is feasible.
    """

    indices: _Ints
    features: _Floats
    cost: _Floats
    loss: _Floats
    violation: _Floats
    front: list[int]

    @classmethod
    def of(cls, space: _Space, trials: Sequence[FrozenTrial]) -> _History:
        indices = np.array([space.indices(trial.params) for trial in trials])
        values = [(trial.values[0], trial.values[1]) for trial in trials]
        violation = np.array([max(trial.constraints.values(), default=0.0) for trial in trials])
        feasible = np.flatnonzero(violation <= 0)
        chosen = feasible if len(feasible) else np.arange(len(trials))
        front = [int(chosen[i]) for i in non_dominated([values[j] for j in chosen])]
        cost = np.array([math.log2(max(first, 1e-300)) for first, _ in values])
        loss = np.array([log10_kl(second) for _, second in values])
        return cls(indices, space.features(indices), cost, loss, violation, front)

    def choose_parent(self, rng: np.random.Generator) -> int:
        """The most faithful trial on the front two times in three, any of the front otherwise."""
        return self.front[-1] if rng.random() < 2 / 3 else self.front[int(rng.integers(len(self.front)))]

    def choose_candidate(self, space: _Space, candidates: _Ints, parent: int, rng: np.random.Generator) -> int:
        """The candidate that one draw of the model likes best, among those not expected to cost too much."""
        features = space.features(candidates)
        nearness = np.exp(-np.abs(self.cost - self.cost[parent]) / _LOCALITY)
        drawn = self._draw(self.loss, nearness, rng)
        # From the dearest trial on the front the way leads up to the constraint, from others to more for the same cost.
        if parent == self.front[-1] and self.violation.any():
            excess = features @ self._draw(self.violation, nearness, None)
        else:
            excess = features @ self._draw(self.cost - self.cost[parent], nearness, None)
        return int(np.argmin(features @ drawn + _PENALTY * np.maximum(excess - _TOLERANCE, 0)))

    def _draw(self, target: _Floats, weights: _Floats, rng: np.random.Generator | None) -> _Floats:
        """Coefficients of a Bayesian linear regression: a draw from the posterior, or its mean without ``rng``."""
        precision = (self.features.T * weights) @ self.features / _NOISE**2
        prior = np.full(len(precision), 1 / _PRIOR**2)
        prior[-1] = 1e-6  # the intercept is free
        precision[np.diag_indices_from(precision)] += prior
        centre = np.average(target, weights=weights)
        mean: _Floats = np.linalg.solve(precision, (self.features.T * weights) @ (target - centre) / _NOISE**2)
        mean[-1] += centre
        if rng is None:
            return mean
        # precision = L Lᵀ, so L⁻ᵀ z has the posterior's covariance.
        deviation: _Floats = np.linalg.solve(np.linalg.cholesky(precision).T, rng.standard_normal(len(mean)))
        return mean + deviation
