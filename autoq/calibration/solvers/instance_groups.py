"""Instance-aware groups: bounds of least squared error (IGQ-ViT; Moon et al., CVPR 2024).

At run time an entry (channel or row) goes to the group whose bounds are nearest to its own, so bounds do two things:
they quantize and they assign. Bounds that merely hold the members of a cluster assign others, which they then clip.
Entries are therefore gathered into cells of nearly equal bounds, the squared error of every cell at every candidate
pair of bounds is computed once from histograms, and groups are chosen by what they cost under the run-time rule.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cached_property
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from autoq.calibration.recording import OperandSample
from autoq.calibration.solvers._base import BaseSolver
from autoq.calibration.solvers.bound_cells import split_into_cells
from autoq.calibration.solvers.tables import LinearTable
from autoq.errors import CalibrationError
from autoq.graph.sites import Operand
from autoq.quantizers import BaseQuantizer, InstanceGroupQuantizer
from autoq.quantizers.instance_groups import spread_over_windows
from autoq.recipe import OperandConfig

_CELLS = 112
_SEEDS = 40
"""From which candidates are made: cells × candidates stay below what torch splits among threads (see ``tables``)."""
_CELL_BINS = 512
_EXACT_BITS = 6
"""Above, errors are integrals: the cells' histograms are as coarse as the codes."""
_FACTORS = (0.3, 0.45, 0.6, 0.75, 0.9, 1.05, 1.25)
"""Of a cell's range. Above one: values of images not sampled, and entries that lie between two groups."""
_ZOOMS = (0.12, 0.06, 0.03)
"""Moves of single bounds, relative to the span of a group."""
_SWAPS = 4
_STARTS = 3
_ALTERNATIONS = 10


class InstanceGroupSolver(BaseSolver):
    """Solves ``instance_groups`` for least squared error, or by IGQ-ViT's alternation; see :class:`GroupFit`."""

    quantizer: ClassVar[type] = InstanceGroupQuantizer

    def solve(self, config: OperandConfig) -> BaseQuantizer:
        """Fit the groups' bounds: by error where the observer offers ranges, else by percentiles of the members."""
        data, operand = self.data, self.data.operand
        if data.sample.entry_bounds is None:
            raise CalibrationError(
                f"operand {operand.name!r} of shape {operand.shape} cannot have instance-aware groups"
            )
        fit = data.cached(("groups",), lambda: GroupFit(data.sample, operand))
        if data.observer.chooses_by_error:
            bounds = fit.least_error_bounds(config.bits, config.groups)
        else:
            percentile = data.observer.kept_percent(data.settings)
            key = ("percentiles", config.groups)
            bounds = data.cached(key, lambda: fit.percentile_bounds(config.groups, percentile))
        return InstanceGroupQuantizer.from_range(config, operand.layout, *bounds)


class GroupFit:
    """Group bounds for one operand at any bit-width and number of groups.

    Attributes:
        sample: the operand's values and its entries' bounds.
    """

    def __init__(self, sample: OperandSample, operand: Operand) -> None:
        """Compute nothing yet; ``sample`` has entry bounds."""
        assert sample.entry_bounds is not None  # noqa: S101 - checked by the caller
        self.sample = sample
        self._layout = operand.layout
        self._kept_share = sample.values.numel() / (sample.entry_bounds[0].shape[0] * math.prod(operand.shape))
        parts = [sample.entry_bounds] + ([sample.further_entry_bounds] if sample.further_entry_bounds else [])
        self._sampled = sample.entry_bounds[0].numel()
        self._points = torch.cat([torch.stack([bound.flatten() for bound in part], 1) for part in parts])
        self._library: dict[int, _Beside] = {}
        self._greedy: dict[int, list[int]] = {}

    def least_error_bounds(self, bits: int, groups: int) -> tuple[Tensor, Tensor]:
        """Fit bounds of shape (groups,) of (nearly) least squared error; never worse for more groups."""
        if bits not in self._library:
            self._library[bits] = _Beside(*self._costs(self._candidates, bits))
            self._greedy[bits] = []
        beside = self._library[bits]
        starts = [self._grown(bits, groups), *self._spaced(groups)]
        starts.sort(key=beside.error)
        picked = min((self._swapped(start, beside) for start in starts[:_STARTS]), key=beside.error)
        bounds = self._refine(self._candidates[picked], bits)
        return bounds[:, 0], bounds[:, 1]

    def _grown(self, bits: int, groups: int) -> list[int]:
        """Add candidates one by one, each the best beside those before."""
        beside, chosen = self._library[bits], self._greedy[bits]
        while len(chosen) < groups:
            chosen.append(beside.best(chosen))
        return chosen[:groups]

    def _spaced(self, groups: int) -> list[list[int]]:
        """Take seeds evenly spaced by width, all shrunk by the same factor."""
        width = self._seeds[:, 1] - self._seeds[:, 0]
        places = (torch.arange(groups) + 0.5) / groups * len(width)
        by_width = width.argsort().cpu()[places.long()].tolist()
        seeds = len(width) + 1
        return [[block * seeds + cell for cell in by_width] for block in range(len(_FACTORS))]

    @staticmethod
    def _swapped(picked: list[int], beside: _Beside) -> list[int]:
        """Replace one candidate at a time by the best beside the others, until none changes."""
        picked = list(picked)
        for _ in range(_SWAPS):
            before = list(picked)
            for group in range(len(picked)):
                picked[group] = beside.best(picked[:group] + picked[group + 1 :])
            if picked == before:
                break
        return picked

    def _refine(self, bounds: Tensor, bits: int) -> Tensor:
        """Move one group's bounds at a time to where the whole error is least; ``bounds`` is (groups, 2)."""
        corner = torch.tensor([-1.0, 0.0, 1.0], device=bounds.device)
        moves = torch.cartesian_prod(corner, corner)
        groups, count = len(bounds), len(moves)
        for zoom in _ZOOMS:
            span = (bounds[:, 1] - bounds[:, 0]).view(-1, 1, 1)
            moved = (bounds.unsqueeze(1) + zoom * span * moves).flatten(0, 1)
            beside = _Beside(*self._costs(moved, bits))
            picked = [group * count + count // 2 for group in range(groups)]
            for group in range(groups):
                own = slice(group * count, (group + 1) * count)
                picked[group] = own.start + beside.best(picked[:group] + picked[group + 1 :], own)
            bounds = moved[picked]
        return bounds

    def _costs(self, bounds: Tensor, bits: int) -> tuple[Tensor, Tensor]:
        """Compute each cell's squared error at each pair of bounds (K, 2), and the distance by which it chooses."""
        lower, upper = bounds[:, 0].double(), bounds[:, 1].double()
        scale = ((upper - lower) / (2**bits - 1)).clamp(min=torch.finfo(torch.float32).tiny)
        zero_point = (-lower / scale).round()
        rows = len(self._centres)
        errors = self._table.affine_errors(
            scale.expand(rows, -1), zero_point.expand(rows, -1), bits, exact=bits <= _EXACT_BITS
        )
        return errors.float(), (self._centres.unsqueeze(1) - bounds).square().sum(2)

    @cached_property
    def _cells(self) -> Tensor:
        """Cell of each entry."""
        return self._split(_CELLS)

    @cached_property
    def _centres(self) -> Tensor:
        """Mean bounds of each cell, of shape (cells, 2)."""
        return self._means(self._cells)

    def _split(self, count: int) -> Tensor:
        return torch.from_numpy(split_into_cells(self._points.cpu().numpy(), count)).to(self._points.device)

    def _means(self, cells: Tensor) -> Tensor:
        count = int(cells.max()) + 1
        sums = torch.zeros(count, 2, device=self._points.device).index_add_(0, cells, self._points)
        return sums / torch.bincount(cells, minlength=count).unsqueeze(1)

    @cached_property
    def _table(self) -> LinearTable:
        values = self.sample.values
        row_of = self._spread(self._cells[: self._sampled]).expand_as(values)
        # Bounds of entries count too, those of images that were not sampled included: what is clipped at run time is
        # rare and far out, and a sample of tokens misses most of it.
        return LinearTable.of_members(
            torch.cat([values.flatten(), self._points[:, 0], self._points[:, 1]]),
            torch.cat([row_of.flatten(), self._cells, self._cells]),
            weights=torch.cat([torch.ones(values.numel()), torch.full((2 * len(self._points),), self._kept_share)]).to(
                values.device
            ),
            count=len(self._centres),
            bins=_CELL_BINS,
        )

    @cached_property
    def _seeds(self) -> Tensor:
        """Bounds from which candidates are made: means of fewer cells."""
        return self._means(self._split(_SEEDS))

    @cached_property
    def _candidates(self) -> Tensor:
        """Bounds to choose from, of shape (K, 2): cells' own and the whole operand's, shrunk towards zero."""
        whole = torch.stack([self._points[:, 0].amin(), self._points[:, 1].amax()]).unsqueeze(0)
        seeds = torch.cat([self._seeds, whole])
        # Towards the end nearest to zero where the range does not hold it.
        anchor = torch.zeros_like(seeds[:, :1]).clamp(seeds[:, :1], seeds[:, 1:])
        factors = torch.tensor(_FACTORS, device=seeds.device).view(-1, 1, 1)
        return torch.cat([(anchor + factors * (seeds - anchor)).flatten(0, 1), whole])

    def _spread(self, of_entries: Tensor) -> Tensor:
        """Shape one number an entry so that it broadcasts against the sampled values."""
        assert self.sample.entry_bounds is not None  # noqa: S101
        return spread_over_windows(of_entries.view_as(self.sample.entry_bounds[0]), self._layout)

    def percentile_bounds(self, groups: int, percentile: float) -> tuple[Tensor, Tensor]:
        """Alternate, as IGQ-ViT does, assigning entries to the nearest bounds and taking percentiles of the members.

        Args:
            groups: number of groups.
            percentile: percent of the members' values below the upper bound, and above the lower one; 100: all.

        Returns:
            Lower and upper bounds, of shape (groups,).
        """
        points = self._points[: self._sampled]
        by_width = (points[:, 1] - points[:, 0]).argsort()
        spaced = ((torch.arange(groups, device=by_width.device) + 0.5) / groups * len(by_width)).long()
        bounds = points[by_width[spaced]]
        assigned: Tensor | None = None
        for _ in range(_ALTERNATIONS):
            previous = assigned
            assigned = (points.unsqueeze(1) - bounds).square().sum(2).argmin(1)
            if previous is not None and torch.equal(previous, assigned):
                break
            members = self._spread(assigned).expand_as(self.sample.values)
            bounds = torch.stack(
                [self._percentiles(self.sample.values[members == g], percentile, bounds[g]) for g in range(groups)]
            )
        return bounds[:, 0], bounds[:, 1]

    @staticmethod
    def _percentiles(values: Tensor, percentile: float, otherwise: Tensor) -> Tensor:
        if not values.numel():
            return otherwise
        rank = max(1, min(len(values), round(len(values) * percentile / 100)))
        return torch.stack([values.kthvalue(len(values) - rank + 1).values, values.kthvalue(rank).values])


class _Beside:
    """Finds the candidate that goes best with others that are chosen; on the host, as thousands of small steps do."""

    def __init__(self, errors: Tensor, distances: Tensor) -> None:
        """Take errors of each cell at each candidate, of shape (cells, K), and distances of each cell from each."""
        self._tensors = errors, distances
        self._errors, self._distances = (np.ascontiguousarray(each.cpu().numpy()) for each in (errors, distances))
        self._errors_of, self._distances_of = (np.ascontiguousarray(each.T) for each in (self._errors, self._distances))
        self._cells = np.arange(len(self._errors))
        self._closer = np.empty(self._errors.shape, bool)
        self._combined = np.empty_like(self._errors)

    def best(self, others: Sequence[int], own: slice = slice(None)) -> int:
        """Find the candidate of least error where cells go to the nearest of it and of the others.

        Args:
            others: candidates that are chosen.
            own: those to choose from; the result counts from its start.
        """
        combined = self._errors[:, own]
        if len(others):
            nearest = self._distances_of[others].argmin(0)
            index = np.asarray(others)[nearest]
            closer = self._closer[:, own]
            np.less(self._distances[:, own], self._distances_of[index, self._cells][:, None], out=closer)
            combined = self._combined[:, own]
            combined[:] = self._errors_of[index, self._cells][:, None]
            np.copyto(combined, self._errors[:, own], where=closer)
        return int(torch.from_numpy(np.ascontiguousarray(combined)).sum(0).argmin())

    def error(self, picked: Sequence[int]) -> float:
        """Compute the error when every cell goes to the nearest of some candidates."""
        errors, distances = (each[:, picked] for each in self._tensors)
        return float(errors.gather(1, distances.argmin(1, keepdim=True)).sum())
