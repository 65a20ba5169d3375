"""An additive model of configurations: costs that add up over sites, and losses that add up over operands.

A configuration gives each site one of its combinations, and by that each operand one of its options. Configurations
are arrays of shape (sites,): the number of each site's combination. With a prior these are the sites and operands of
the allocation problem, with exact costs and with sensitivities as losses. Without one, every parameter of the study
takes the place of a site with a single operand, and its choices that of the options.

Options are numbered over all operands: arrays of shape (options,) hold something of every option.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
from optuna.distributions import CategoricalDistribution
from optuna.trial import FrozenTrial

from autoq.optimization.allocation.knapsack import FloatArray, IntArray
from autoq.optimization.samplers.prior import AllocationPrior

_LEAST_LOSS = 1e-9
"""Below this, options alone cannot be told from no quantization at all."""
_RIDGE = 1e-3
"""Of the regression of costs, relative to the mean diagonal of the Gram matrix."""


@dataclass(frozen=True)
class Scales:
    """Standard deviations of what an additive model leaves open, in nats of the logarithm of the loss.

    Attributes:
        operand: of the correction of an operand's share in the loss, common to all its options.
        option: of the correction of a single option.
        local: of the deviation that configurations have in common as far as they have their options in common.
        nugget: of the deviation that a configuration has in common with no other.
    """

    operand: float
    option: float
    local: float
    nugget: float


@dataclass(frozen=True, eq=False)
class AdditiveModel:
    """Sites, combinations, options, costs and expected losses.

    Attributes:
        cost: (sites, most combinations) cost of each combination, infinite beyond a site's combinations.
        fixed_cost: cost besides the sites.
        operand_site: (operands,) the site of each operand.
        operand_option: (operands, most combinations) the option of each operand in each combination of its site.
        loss: (options,) expected loss of each option, to be added up; equal ones if nothing is known.
        basis: (options, features) by which options of an operand are alike; None: they are not.
        movable: (sites,) whether a site's combination can be changed alone; tied ones cannot.
        limit: the most that a configuration may cost.
        least: the least that one can cost.
        encode: from parameters to combinations, of shape (sites,).
        decode: from combinations to parameters.
        allocate: from losses of options and limits of the cost to configurations of small loss, of shape
            (limits, sites), if that can be worked out.
        satisfied: tells which configurations, of shape (n, sites), keep what else is limited.
        scales: of what the model leaves open, from logarithms of losses that were found.
    """

    cost: FloatArray
    fixed_cost: float
    operand_site: IntArray
    operand_option: IntArray
    loss: FloatArray
    basis: FloatArray | None
    movable: npt.NDArray[np.bool_]
    limit: float
    least: float
    encode: Callable[[Mapping[str, Any]], IntArray]
    decode: Callable[[IntArray], dict[str, Any]]
    allocate: Callable[[FloatArray, FloatArray], IntArray] | None
    satisfied: Callable[[IntArray], npt.NDArray[np.bool_]]
    scales: Callable[[FloatArray], Scales]

    def costs(self, combinations: IntArray) -> FloatArray:
        """Add up the costs (n,) of configurations of shape (n, sites)."""
        total: FloatArray = self.fixed_cost + self.cost[np.arange(combinations.shape[1]), combinations].sum(1)
        return total

    def within(self, combinations: IntArray) -> npt.NDArray[np.bool_]:
        """Tell which configurations, of shape (n, sites), are within everything that is limited: (n,)."""
        kept: npt.NDArray[np.bool_] = (self.costs(combinations) <= self.limit) & self.satisfied(combinations)
        return kept

    def options(self, combinations: IntArray) -> IntArray:
        """Look up the options (n, operands) of configurations of shape (n, sites)."""
        chosen: IntArray = self.operand_option[np.arange(len(self.operand_site)), combinations[:, self.operand_site]]
        return chosen

    def combination_losses(self, losses: FloatArray) -> FloatArray:
        """Add losses of options, of shape (options,), up over each site's operands: (sites, most combinations)."""
        result = np.zeros(self.cost.shape)
        np.add.at(result, self.operand_site, losses[self.operand_option])
        return np.where(np.isfinite(self.cost), result, np.inf)


def model_from_prior(prior: AllocationPrior) -> AdditiveModel:
    """Make the model of an allocation problem: exact costs, sensitivities as expected losses."""
    problem = prior.problem
    starts = np.concatenate([[0], np.cumsum([len(options) for options in problem.options])])
    position = {operand: index for index, operand in enumerate(problem.operands)}
    widest = max(len(site.cost) for site in problem.sites)
    cost = np.full((len(problem.sites), widest), np.inf)
    operand_site = np.full(len(problem.operands), -1)  # none yet
    operand_option = np.zeros((len(problem.operands), widest), dtype=np.int64)
    losses = np.concatenate(list(prior.table))  # (options,)
    for row, site in enumerate(problem.sites):
        count = len(site.cost)
        for column, name in enumerate(site.configs[0]):
            operand = position[site.site, name]
            operand_site[operand] = row
            operand_option[operand, :count] = starts[operand] + site.options[:, column]
        usable = np.isfinite(losses[operand_option[operand_site == row][:, :count]]).all(0)
        cost[row, :count] = np.where(usable, site.cost, np.inf)

    def allocate(option_losses: FloatArray, limits: FloatArray) -> IntArray:
        table = [np.asarray(part) for part in np.split(option_losses, starts[1:-1])]
        return np.array(problem.relaxed(problem.site_losses(table), [int(limit) for limit in limits]))

    return AdditiveModel(
        cost=cost,
        fixed_cost=problem.fixed_cost,
        operand_site=operand_site,
        operand_option=operand_option,
        loss=np.maximum(losses, _LEAST_LOSS),
        basis=None,
        movable=np.array([bool((site.ties < 0).all()) for site in problem.sites]),
        limit=prior.limit,
        least=prior.least_cost,
        encode=lambda params: problem.combinations_of({d.name: params[d.name] for d in problem.space.decisions}),
        decode=problem.assignment,
        allocate=allocate,
        satisfied=problem.satisfied,
        scales=lambda _: Scales(operand=0.6, option=0.5, local=0.26, nugget=0.18),
    )


def model_from_study(space: Mapping[str, CategoricalDistribution], trials: Sequence[FrozenTrial]) -> AdditiveModel:
    """Make a model of parameters: costs by a linear fit of the first objective, equal losses.

    Choices that are all numbers are ordered: those near each other are alike.

    Args:
        space: categorical parameters.
        trials: complete ones, at least one, with all these parameters and two values.
    """
    parameters = _Parameters(space)
    count = len(parameters.names)
    basis = parameters.basis()
    first = np.array([trial.values[0] for trial in trials])
    taken = parameters.starts[:-1] + np.array([parameters.encode(trial.params) for trial in trials])
    fixed, per_option = _fit_costs(first, taken, basis)
    widest = max(len(choices) for choices in parameters.choices)
    spans = zip(parameters.starts[:-1], np.diff(parameters.starts), strict=True)
    operand_option = np.array([[start + min(c, size - 1) for c in range(widest)] for start, size in spans])
    beyond = np.arange(widest) >= np.diff(parameters.starts)[:, None]  # (parameters, most choices)
    cost = np.where(beyond, np.inf, per_option[operand_option])
    feasible = np.array([max(trial.constraints.values(), default=0.0) <= 0 for trial in trials])
    return AdditiveModel(
        cost=cost,
        fixed_cost=fixed,
        operand_site=np.arange(count),
        operand_option=operand_option,
        loss=np.full(parameters.starts[-1], 1 / count),
        basis=basis,
        movable=np.ones(count, dtype=bool),
        limit=_limit(first, feasible, fixed + float(np.where(beyond, -np.inf, cost).max(1).sum())),
        least=float(first.min()),
        encode=parameters.encode,
        decode=parameters.decode,
        allocate=None,
        satisfied=lambda combinations: np.ones(len(combinations), dtype=bool),
        scales=lambda logarithms: _study_scales(logarithms, count),
    )


def _study_scales(logarithms: FloatArray, parameters: int) -> Scales:
    """Choose scales in proportion to the spread of the losses that were found."""
    spread = float(np.clip(np.std(logarithms), 0.1, 10.0))
    return Scales(operand=0.0, option=2 * spread * np.sqrt(parameters), local=0.3 * spread, nugget=0.02 * spread)


class _Parameters:
    """The parameters of a study by name, their choices in order.

    Attributes:
        names: in alphabetical order.
        choices: of each parameter; numbers in ascending order.
        starts: (parameters + 1,) the number of each parameter's first choice, if those of all are counted through.
    """

    def __init__(self, space: Mapping[str, CategoricalDistribution]) -> None:
        self.names = sorted(space)
        self.choices = [_in_order(space[name].choices) for name in self.names]
        self.starts = np.concatenate([[0], np.cumsum([len(choices) for choices in self.choices])])

    def encode(self, params: Mapping[str, Any]) -> IntArray:
        positions = [choices.index(params[n]) for n, choices in zip(self.names, self.choices, strict=True)]
        return np.array(positions, dtype=np.int64)

    def decode(self, positions: IntArray) -> dict[str, Any]:
        return {name: c[int(p)] for name, c, p in zip(self.names, self.choices, positions, strict=True)}

    def basis(self) -> FloatArray:
        """Make (choices, choices) features: steps from each number to the next, and one for each other choice."""
        basis = np.zeros((self.starts[-1], self.starts[-1]))
        for choices, (start, end) in zip(self.choices, pairwise(self.starts), strict=True):
            count = len(choices)
            block = np.tril(np.ones((count, count))) / np.sqrt(count) if _is_ordered(choices) else np.eye(count)
            basis[start:end, start:end] = block
        return basis


def _limit(first: FloatArray, feasible: npt.NDArray[np.bool_], dearest: float) -> float:
    """Estimate the most that a configuration may cost, from the costs of feasible and infeasible trials."""
    if feasible.all():
        return max(dearest, float(first.max()))
    if not feasible.any():
        return float(first.min())
    highest = float(first[feasible].max())
    beyond = first[~feasible & (first > highest)]
    return highest if not len(beyond) else 0.5 * (highest + float(beyond.min()))


def _is_ordered(choices: Sequence[Any]) -> bool:
    return all(isinstance(choice, int | float) for choice in choices)


def _in_order(choices: Sequence[Any]) -> list[Any]:
    return sorted(choices) if _is_ordered(choices) else list(choices)


def _fit_costs(first: FloatArray, taken: IntArray, basis: FloatArray) -> tuple[float, FloatArray]:
    """Fit the first objective by ridge regression: a constant and an amount for each option.

    Args:
        first: (trials,) the first objective.
        taken: (trials, parameters) the options of each trial.
        basis: (options, features).

    Returns:
        The constant, and (options,) the amounts.
    """
    features = basis[taken].sum(1)  # (trials, features)
    centre, middle = float(first.mean()), features.mean(0)
    centred = features - middle
    # As many trials as there are, never as many unknowns as there are options.
    gram = centred @ centred.T
    gram[np.diag_indices_from(gram)] += _RIDGE * max(1.0, float(np.trace(gram)) / len(gram))
    weights = centred.T @ np.linalg.solve(gram, first - centre)
    return centre - float(middle @ weights), basis @ weights
