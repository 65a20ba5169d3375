"""An Optuna sampler for many ordered choices, two objectives and a constraint: proposals around the front."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.samplers import BaseSampler, RandomSampler
from optuna.search_space import IntersectionSearchSpace
from optuna.trial import FrozenTrial, TrialState
from scipy.special import logsumexp, ndtr
from threadpoolctl import ThreadpoolController

from autoq.search.front import KL_FLOOR_NATS, non_dominated
from autoq.search.samplers.landscape import FloatArray, IntArray, Landscape, from_prior, from_study
from autoq.search.samplers.neighbours import Ladders, neighbours, novel
from autoq.search.samplers.prior import AllocationPrior
from autoq.search.samplers.surrogate import Surrogate

_SEEDS = 20
"""Allocations of the prior that are proposed first, over the range of costs."""
_AIMS = 8
"""Costs that are aimed at besides the limit, half of them near those of the front."""
_NEAR = (-0.03, 0.06)
"""How near, as a range of the logarithm of their ratio."""
_LOWEST = 1.02
"""Times the least cost: nothing can be chosen below."""
_BEYOND = 0.5
"""Share of the limit by which costs are taken to go on: what the best within the limit is worth."""
_PARENTS = 3
"""Recipes of the front, those nearest below a cost aimed at, that neighbours are made of."""
_NEIGHBOURS = 100
"""Neighbours that are made for each cost aimed at."""
_COMPARED = 30
"""Of those, the ones that the whole surrogate compares."""
_TRIALS = 300
"""Trials, those of the front and nearest the costs aimed at, that the surrogate learns from."""
_WIDEST = 0.05
"""Share of the items that change in the first proposals."""
_HALVED_EVERY = 2
"""The step halves every time as many trials as this many times the items are done."""
_REACH = (3, 1)
"""Rungs that an item moves at most: in the first proposals, and once the step has narrowed."""


class ProgressiveSampler(BaseSampler):
    """Proposes whole configurations near the front, in steps that narrow, by what a surrogate expects of them.

    Some costs are aimed at: the limit, others near those of the front, others anywhere below. For each, neighbours are
    made of the nearest recipes of the front and of a fresh allocation of losses corrected by what trials have taught;
    they change many items far at first and few by little later (the coarse-to-fine idea of AdaLog's FPCS, Wu et al.,
    ECCV 2024, over bits, groups and bases together) and spend the cost aimed at. Of all of them, the one is proposed
    that is expected to add most hypervolume. What is expected is said by a Gaussian process whose mean is the sum of
    sensitivities (``autoq.search.samplers.surrogate``).

    For studies with two minimised objectives, the second positive, whose parameters are categorical; choices that are
    numbers are taken as ordered. Constraints are those of the trials. With a prior (exact costs, sensitivities) the
    first proposals are exact allocations for a range of budgets. Without one, costs are learned as well, and trials
    are proposed at random until one is complete.

    Stateless: all is read from the study, so that several workers can share one; proposals are determined by the seed,
    the prior, the finished trials and the trial's number.
    """

    def __init__(self, seed: int = 0, prior: AllocationPrior | None = None) -> None:
        """Determine all proposals by ``seed`` and ``prior``."""
        self._seed = seed
        self._prior = prior
        self._from_prior = None if prior is None else from_prior(prior)
        self._independent = RandomSampler(seed=seed)
        self._spaces = IntersectionSearchSpace()
        self._blas = ThreadpoolController()
        # Not state: what is derived from parameters and the prior alone.
        self._encoded: dict[tuple[Any, ...], IntArray] = {}
        self._seeds: list[dict[str, Any]] | None = None

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:  # noqa: ARG002
        """The categorical parameters: those of the prior, or else those that all trials have."""
        if self._prior is not None:
            space = self._prior.problem.space
            return {decision.name: CategoricalDistribution(decision.choices) for decision in space.decisions}
        found = self._spaces.calculate(study)
        return {name: kind for name, kind in found.items() if isinstance(kind, CategoricalDistribution)}

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """A seed, or the neighbour of the front that promises most."""
        finished = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL))
        tried = [t for t in finished if search_space.keys() <= t.params.keys()]
        past = self._usable([t for t in tried if t.state == TrialState.COMPLETE])
        # Matrices this small only lose by threads, ten times over where cores are shared.
        with self._blas.limit(limits=1, user_api="blas"):
            if (seed := self._next_seed(tried)) is not None:
                return seed
            if not past or not search_space:
                return {}
            space = {n: d for n, d in search_space.items() if isinstance(d, CategoricalDistribution)}
            landscape = self._from_prior or from_study(space, past)
            rng = np.random.default_rng((self._seed, trial.number))
            return landscape.decode(self._propose(landscape, past, rng))

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """A random value, for parameters that not all trials have."""
        return self._independent.sample_independent(study, trial, param_name, param_distribution)

    def reseed_rng(self) -> None:
        """Optuna calls this in parallel workers; proposals differ by trial number instead."""

    def _usable(self, past: list[FrozenTrial]) -> list[FrozenTrial]:
        """Those whose losses are finite alone: there is no adding up the others, which may be finite together."""
        landscape = self._from_prior
        if landscape is None or not past or np.isfinite(landscape.loss).all():
            return past
        costs = landscape.costs(np.array([self._encode(landscape.encode, trial.params) for trial in past]))
        return [trial for trial, cost in zip(past, costs, strict=True) if math.isfinite(cost)]

    def _next_seed(self, tried: Sequence[FrozenTrial]) -> dict[str, Any] | None:
        """The first allocation of the prior, from the greatest budget down, that no trial has, failed or not."""
        if self._prior is None or self._from_prior is None:
            return None
        if self._seeds is None:
            problem = self._prior.problem
            budgets = sorted((self._prior.budget(position) for position in range(_SEEDS)), reverse=True)
            self._seeds = [a.assignment for a in problem.sweep(self._prior.table, budgets, gap=1e-3)]
        encode = self._from_prior.encode
        done = {self._encode(encode, trial.params).tobytes() for trial in tried}
        return next((seed for seed in self._seeds if self._encode(encode, seed).tobytes() not in done), None)

    def _encode(self, encode: Any, params: Mapping[str, Any]) -> IntArray:
        key = tuple(params.items())
        if key not in self._encoded:
            self._encoded[key] = encode(params)
        return self._encoded[key]

    def _propose(self, landscape: Landscape, past: Sequence[FrozenTrial], rng: np.random.Generator) -> IntArray:
        """(items,) What to evaluate next."""
        encode = self._encode if self._prior is not None else (lambda convert, params: convert(params))
        options = np.array([encode(landscape.encode, trial.params) for trial in past])
        cost = np.array([trial.values[0] for trial in past])
        logarithms = np.log(np.maximum([trial.values[1] for trial in past], KL_FLOOR_NATS))
        front = np.array(non_dominated([(c, math.exp(y)) for c, y in zip(cost, logarithms, strict=True)]))
        aims = _choose_costs(landscape, cost[front], rng)
        off = np.abs(cost[:, None] - aims).min(1)
        off[front] = 0
        near = np.argsort(off, kind="stable")[:_TRIALS]
        surrogate = Surrogate(landscape, options[near], logarithms[near])
        drawn = surrogate.draw_losses(rng)
        ladders = Ladders(landscape, drawn)
        known = {row.tobytes() for row in landscape.entries(options)}
        width = _WIDEST * len(landscape.movable) * 0.5 ** (len(past) / (_HALVED_EVERY * len(landscape.movable)))
        reach = _REACH[0] if width > 1 else _REACH[1]
        nearest = front[np.argsort(np.abs(cost[front] - aims[:, None]), axis=1, kind="stable")[:, :_PARENTS]]
        parents = options[nearest]  # (aims, parents, items)
        if landscape.allocate is not None:
            parents = np.concatenate([parents, landscape.allocate(drawn, aims)[:, None]], axis=1)
        aim = np.repeat(np.arange(len(aims)), _NEIGHBOURS)
        chosen = parents[aim, rng.integers(parents.shape[1], size=len(aim))]
        made = neighbours(landscape, ladders, chosen, aims[aim], max(1.0, width), reach, rng)
        candidates = novel(landscape, np.vstack([made, parents[:, -1]]), known)
        candidates = candidates[landscape.costs(candidates) <= landscape.limit]
        if landscape.allocate is not None:
            candidates = _best_for_each(landscape, candidates, drawn, aims)
        if not len(candidates):
            return np.asarray(options[front[-1]])
        mean, deviation = surrogate.predict(candidates)
        gain = _expected_gain(landscape, cost[front], logarithms[front], landscape.costs(candidates), mean, deviation)
        return np.asarray(candidates[int(np.argmax(gain))])


def _best_for_each(landscape: Landscape, candidates: IntArray, losses: FloatArray, aims: FloatArray) -> IntArray:
    """Of the candidates nearest below each cost aimed at, those with the least losses that add up."""
    order = np.sort(aims)
    group = np.searchsorted(order, landscape.costs(candidates))
    expected = losses[landscape.entries(candidates)].sum(1)
    ranked = np.lexsort((expected, group))
    position = np.arange(len(ranked)) - np.searchsorted(group[ranked], group[ranked])
    return np.asarray(candidates[np.sort(ranked[position < _COMPARED])])


def _choose_costs(landscape: Landscape, front: FloatArray, rng: np.random.Generator) -> FloatArray:
    """Costs to aim at: the limit, others near some of the front's, and others anywhere on a logarithmic scale."""
    low, high = min(_LOWEST * landscape.least, landscape.limit), landscape.limit
    near = rng.choice(front, _AIMS // 2) * np.exp(rng.uniform(*_NEAR, _AIMS // 2))
    share = rng.random(_AIMS - _AIMS // 2)
    # Costs are positive where they are BOPs.
    far = low * (high / low) ** share if low > 0 else low + (high - low) * share
    return np.concatenate([[high], np.clip(near, low, high), np.clip(far, low, high)])


def _expected_gain(
    landscape: Landscape,
    front_cost: FloatArray,
    front_logarithm: FloatArray,
    cost: FloatArray,
    mean: FloatArray,
    deviation: FloatArray,
) -> FloatArray:
    """(n,) Logarithm of the expected hypervolume that configurations add, in cost × nats.

    What a configuration saves at a cost is what it saves at all costs from there to that of the next better one on
    the front; the limit's own step is counted as if costs went on by half.
    """
    within = front_cost <= landscape.limit
    steps = np.concatenate([front_cost[within], [landscape.limit + _BEYOND * abs(landscape.limit)]])
    heights = front_logarithm[within]
    if not len(heights):
        return -cost
    # Below the cheapest of the front anything is an improvement, over the worst that is known.
    starts = np.concatenate([[min(landscape.least, steps[0])], steps[:-1]])
    heights = np.concatenate([[front_logarithm.max() + 1.0], heights])
    widths = np.maximum(steps - np.maximum(starts, cost[:, None]), 0)
    z = (heights - mean[:, None]) / deviation[:, None]
    # Far from any improvement, z·Φ(z) + φ(z) cancels; its leading term does not.
    log_density = -0.5 * z**2 - 0.5 * math.log(2 * math.pi)
    plain = np.log(np.maximum(z * ndtr(z) + np.exp(log_density), 1e-300))
    improvement = np.where(z > -5, plain, log_density - 2 * np.log(np.maximum(-z, 1.0)))
    with np.errstate(divide="ignore"):
        weighted = np.log(widths) + improvement + np.log(deviation)[:, None]
    gain: FloatArray = logsumexp(weighted, axis=1)
    return gain
