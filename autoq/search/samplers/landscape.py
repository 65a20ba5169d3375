"""Configurations as arrays, and what is expected of them: the ground that ``ProgressiveSampler`` moves on.

A configuration gives each *item* one of its *options*. An item consists of *parts*, whose losses add up; an *entry* is
one thing that a part can be. With a prior, items are sites, parts are operands and entries their configurations.
Without one, every parameter of the study is an item with a single part.
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

from autoq.search.samplers.prior import AllocationPrior

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

_LEAST_LOSS = 1e-9
"""Below this, options alone cannot be told from no quantization at all."""
_RIDGE = 1e-3


@dataclass(frozen=True)
class Scales:
    """Standard deviations of what a landscape leaves open, in nats of the logarithm of the loss.

    Attributes:
        part: of a part's share in the loss, common to all its entries.
        entry: of an entry's own.
        local: of what only configurations alike have in common.
        own: of what a configuration has in common with no other.
    """

    part: float
    entry: float
    local: float
    own: float


@dataclass(frozen=True, eq=False)
class Landscape:
    """Items, options, costs and expected losses.

    Attributes:
        cost: (items, most options) cost of each option, infinite beyond an item's options.
        fixed_cost: cost besides the items.
        part_item: (parts,) the item of each part.
        part_entry: (parts, most options) the entry of each part for each option of its item.
        loss: (entries,) expected loss of each entry, to be added up; equal ones if nothing is known.
        basis: (entries, features) by which entries of a part are alike; None: they are not.
        movable: (items,) whether an item can be changed alone; tied ones cannot.
        limit: the most that a configuration may cost.
        least: the least that one can cost.
        encode: from parameters to options, of shape (items,).
        decode: from options to parameters.
        allocate: from losses of entries and limits of the cost to options of small loss, of shape (limits, items), if
            that can be worked out.
        scales: of what is not expected, from logarithms of losses that were found.
    """

    cost: FloatArray
    fixed_cost: float
    part_item: IntArray
    part_entry: IntArray
    loss: FloatArray
    basis: FloatArray | None
    movable: npt.NDArray[np.bool_]
    limit: float
    least: float
    encode: Callable[[Mapping[str, Any]], IntArray]
    decode: Callable[[IntArray], dict[str, Any]]
    allocate: Callable[[FloatArray, FloatArray], IntArray] | None
    scales: Callable[[FloatArray], Scales]

    def costs(self, options: IntArray) -> FloatArray:
        """(n,) Costs of configurations of shape (n, items)."""
        total: FloatArray = self.fixed_cost + self.cost[np.arange(options.shape[1]), options].sum(1)
        return total

    def entries(self, options: IntArray) -> IntArray:
        """(n, parts) Entries of configurations of shape (n, items)."""
        chosen: IntArray = self.part_entry[np.arange(len(self.part_item)), options[:, self.part_item]]
        return chosen

    def option_losses(self, losses: FloatArray) -> FloatArray:
        """(items, most options) The sum over an item's parts, for losses of shape (entries,)."""
        result = np.zeros(self.cost.shape)
        np.add.at(result, self.part_item, losses[self.part_entry])
        return np.where(np.isfinite(self.cost), result, np.inf)


def from_prior(prior: AllocationPrior) -> Landscape:
    """Sites as items, exact costs, sensitivities as expected losses."""
    problem = prior.problem
    starts = np.concatenate([[0], np.cumsum([len(configs) for configs in problem.operand_configs])])
    position = {operand: index for index, operand in enumerate(problem.operands)}
    widest = max(len(site.bops) for site in problem.sites)
    cost = np.full((len(problem.sites), widest), np.inf)
    part_item = np.zeros(len(problem.operands), dtype=np.int64)
    part_entry = np.zeros((len(problem.operands), widest), dtype=np.int64)
    losses = np.concatenate(list(prior.table))
    for item, site in enumerate(problem.sites):
        count = len(site.bops)
        for column, operand in enumerate(site.configs[0]):
            part = position[site.site, operand]
            part_item[part] = item
            part_entry[part, :count] = starts[part] + site.operand_options[:, column]
        usable = np.isfinite(losses[part_entry[part_item == item][:, :count]]).all(0)
        cost[item, :count] = np.where(usable, site.bops, np.inf)

    def allocate(entry_losses: FloatArray, limits: FloatArray) -> IntArray:
        table = [np.asarray(part) for part in np.split(entry_losses, starts[1:-1])]
        return np.array(problem.relaxed(problem.site_losses(table), [int(limit) for limit in limits]))

    return Landscape(
        cost=cost,
        fixed_cost=problem.fixed_bops,
        part_item=part_item,
        part_entry=part_entry,
        loss=np.maximum(losses, _LEAST_LOSS),
        basis=None,
        movable=np.array([bool((site.ties < 0).all()) for site in problem.sites]),
        limit=prior.budget_bops,
        least=prior.least_bops,
        encode=lambda params: problem.options_of({d.name: params[d.name] for d in problem.space.decisions}),
        decode=problem.assignment,
        allocate=allocate,
        scales=lambda _: Scales(part=0.6, entry=0.5, local=0.26, own=0.18),
    )


def from_study(space: Mapping[str, CategoricalDistribution], trials: Sequence[FrozenTrial]) -> Landscape:
    """Parameters as items; costs by a linear fit of the first objective; nothing expected of the second.

    Choices that are all numbers are ordered: entries near each other are alike.
    """
    names = sorted(space)
    choices = [_in_order(space[name].choices) for name in names]
    ordered = [all(isinstance(choice, int | float) for choice in options) for options in choices]
    starts = np.concatenate([[0], np.cumsum([len(options) for options in choices])])
    widest = max(len(options) for options in choices)
    part_entry = np.array([[start + min(o, n - 1) for o in range(widest)] for start, n in _spans(starts)])
    basis = np.zeros((starts[-1], starts[-1]))
    for (start, count), is_ordered in zip(_spans(starts), ordered, strict=True):
        block = np.tril(np.ones((count, count))) / np.sqrt(count) if is_ordered else np.eye(count)
        basis[start : start + count, start : start + count] = block

    def encode(params: Mapping[str, Any]) -> IntArray:
        return np.array([options.index(params[n]) for n, options in zip(names, choices, strict=True)], dtype=np.int64)

    def decode(options: IntArray) -> dict[str, Any]:
        return {name: values[int(o)] for name, values, o in zip(names, choices, options, strict=True)}

    def scales(logarithms: FloatArray) -> Scales:
        spread = float(np.clip(np.std(logarithms), 0.1, 10.0))
        return Scales(part=0.0, entry=2 * spread * np.sqrt(len(names)), local=0.3 * spread, own=0.02 * spread)

    first = np.array([trial.values[0] for trial in trials])
    taken = starts[:-1] + np.array([encode(trial.params) for trial in trials])
    fixed, per_entry = _fit_costs(first, taken, basis)
    beyond = np.arange(widest) >= np.diff(starts)[:, None]
    cost = np.where(beyond, np.inf, per_entry[part_entry])
    feasible = np.array([max(trial.constraints.values(), default=0.0) <= 0 for trial in trials])
    return Landscape(
        cost=cost,
        fixed_cost=fixed,
        part_item=np.arange(len(names)),
        part_entry=part_entry,
        loss=np.full(starts[-1], 1 / len(names)),
        basis=basis,
        movable=np.ones(len(names), dtype=bool),
        limit=_limit(first, feasible, fixed + float(np.where(beyond, -np.inf, cost).max(1).sum())),
        least=float(first.min()),
        encode=encode,
        decode=decode,
        allocate=None,
        scales=scales,
    )


def _limit(first: FloatArray, feasible: npt.NDArray[np.bool_], dearest: float) -> float:
    """The most that a configuration may cost, as far as trials have shown it."""
    if feasible.all():
        return max(dearest, float(first.max()))
    if not feasible.any():
        return float(first.min())
    highest = float(first[feasible].max())
    beyond = first[~feasible & (first > highest)]
    return highest if not len(beyond) else 0.5 * (highest + float(beyond.min()))


def _in_order(choices: Sequence[Any]) -> list[Any]:
    return sorted(choices) if all(isinstance(choice, int | float) for choice in choices) else list(choices)


def _spans(starts: npt.NDArray[Any]) -> list[tuple[int, int]]:
    return [(int(start), int(end - start)) for start, end in pairwise(starts)]


def _fit_costs(first: FloatArray, taken: IntArray, basis: FloatArray) -> tuple[float, FloatArray]:
    """The first objective as a constant and an amount for each entry, by ridge regression."""
    features = basis[taken].sum(1)
    centre, middle = float(first.mean()), features.mean(0)
    centred = features - middle
    # As many trials as there are, never as many unknowns as there are entries.
    gram = centred @ centred.T
    gram[np.diag_indices_from(gram)] += _RIDGE * max(1.0, float(np.trace(gram)) / len(gram))
    weights = centred.T @ np.linalg.solve(gram, first - centre)
    return centre - float(middle @ weights), basis @ weights
