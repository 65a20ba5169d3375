"""Any scheme by its range: the observed one, the best of several, or one that is searched for."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Tensor

from autoq.calibration.observers import Bounds
from autoq.calibration.solvers._base import BaseSolver
from autoq.calibration.solvers.rows import Rows
from autoq.calibration.solvers.sorted_rows import SortedRows
from autoq.calibration.solvers.tables import LinearTable
from autoq.quantizers import BaseQuantizer, OperandLayout, quantizer_class
from autoq.recipe import OperandConfig

_COARSE = tuple(0.9**power for power in range(31))
"""From the whole range down to 4 % of it: heavy tails at two bits need that much."""
_FINE = (0.7, 0.8, 0.9, 0.95, 1.0, 1.05, 1.1)
_ROUNDS = 2
_SEARCH_ELEMENTS_AT_ONCE = 1 << 20
_LOOK_UPS_PAY = 32
"""From so many values a code on, looking thresholds up among sorted values is faster than quantizing the values."""
_ELEMENTS_AT_ONCE = 1 << 17
_ROW_LAYOUT = OperandLayout(ndim=2, channel_axis=-2)


class RangeSolver(BaseSolver):
    """Solves every scheme that has no solver of its own, by ``BaseQuantizer.from_range``."""

    quantizer: ClassVar[type] = BaseQuantizer

    def solve(self, config: OperandConfig) -> BaseQuantizer:
        """Choose one range a row: what the observer saw, or the range of least squared error."""
        rows = self.data.rows(config)
        lower, upper = (bound.view(rows.shape) for bound in self._choose(config, rows))
        return quantizer_class(config.scheme).from_range(config, self.data.operand.layout, lower, upper)

    def _choose(self, config: OperandConfig, rows: Rows) -> Bounds:
        if self.data.observer.searches:
            return self._search(config, rows)
        candidates = self.data.candidates(rows)
        if candidates is None:
            return rows.lower, rows.upper
        return least_error_range(rows.values, config, candidates, lambda: self.data.sorted_rows(rows))

    def _search(self, config: OperandConfig, rows: Rows) -> Bounds:
        """Search the range of least squared error, from the observed one on."""
        return search_range(rows.values, config, rows.lower, rows.upper, self.data.settings.bins)


def least_error_range(
    values: Tensor, config: OperandConfig, candidates: Bounds, sorted_rows: Callable[[], SortedRows]
) -> Bounds:
    """Take, for each row, the candidate whose quantizer has the least squared error, which is computed exactly.

    Args:
        values: of shape (rows, n).
        config: scheme and bits; its granularity is ignored, each row has parameters of its own.
        candidates: lower and upper bounds of K candidates, of shape (K, rows); of equally good ones the first is taken.
        sorted_rows: gives ``values`` sorted; called where errors are computed faster so.

    Returns:
        Lower and upper bounds of shape (rows,).
    """
    lower, upper = candidates
    cls, by_row = quantizer_class(config.scheme), _by_row(config)
    is_looked_up = cls.is_affine and values.shape[1] > _LOOK_UPS_PAY * 2**config.bits
    elements = len(values) * 2**config.bits if is_looked_up else values.numel()
    at_once = max(1, _ELEMENTS_AT_ONCE // elements)
    errors = []
    for low, high in zip(torch.split(lower, at_once), torch.split(upper, at_once), strict=True):
        quantizer = cls.from_range(by_row, _ROW_LAYOUT, low.reshape(-1, 1), high.reshape(-1, 1))
        affine = quantizer.affine_qparams() if is_looked_up else None
        if affine is not None:
            scale, zero_point = (value.view(low.shape).t() for value in affine)  # (rows, candidates)
            errors.append(sorted_rows().affine_errors(scale, zero_point, config.bits).t())
        else:
            tiled = values.repeat(len(low), 1)  # (candidates · rows, n)
            difference = quantizer.fake_quantize(tiled).sub_(tiled).square_()
            errors.append(difference.sum(1, dtype=torch.float64).view(low.shape))
    best = torch.cat(errors).argmin(0, keepdim=True)  # (1, rows)
    return lower.gather(0, best)[0], upper.gather(0, best)[0]


def search_range(values: Tensor, config: OperandConfig, lower: Tensor, upper: Tensor, bins: int) -> Bounds:
    """Shrink each row's observed range, both bounds together, then each, to where its squared error is least.

    Args:
        values: of shape (rows, n); more than ``bins`` a row are represented by the means of as many bins.
        config: scheme and bits; its granularity is ignored, each row has parameters of its own.
        lower: observed bounds, of shape (rows,).
        upper: observed bounds, of shape (rows,).
        bins: resolution.

    Returns:
        Lower and upper bounds, of shape (rows,).
    """
    weights = torch.ones_like(values)
    if values.shape[1] > bins:
        table = LinearTable.of_rows(values, bins)
        number, mass = torch.diff(table.sums[:2], dim=2)  # (rows, bins)
        values, weights = (mass / number.clamp(min=1) * table.width + table.low).float(), number.float()

    def best(low: Tensor, high: Tensor) -> Bounds:
        index = _squared_errors(values, weights, config, low, high).argmin(0, keepdim=True)  # (1, rows)
        return low.gather(0, index)[0], high.gather(0, index)[0]

    coarse = torch.tensor(_COARSE, device=lower.device).unsqueeze(1)
    fine = torch.tensor(_FINE, device=lower.device).unsqueeze(1)
    low, high = best(coarse * lower, coarse * upper)
    for _ in range(_ROUNDS):
        low, high = best(low.expand(len(_FINE), -1), (fine * high).minimum(upper.clamp(min=0)).maximum(low))
        low, high = best((fine * low).maximum(lower.clamp(max=0)).minimum(high), high.expand(len(_FINE), -1))
    return low, high


def _squared_errors(values: Tensor, weights: Tensor, config: OperandConfig, lower: Tensor, upper: Tensor) -> Tensor:
    """Compute Σ weight · (value − fake_quantize(value))² for candidate ranges of shape (K, rows), in that shape."""
    rows, n = values.shape
    cls, by_row = quantizer_class(config.scheme), _by_row(config)
    errors = []
    at_once = max(1, _SEARCH_ELEMENTS_AT_ONCE // (rows * n))
    for low, high in zip(torch.split(lower, at_once), torch.split(upper, at_once), strict=True):
        tiled = values.repeat(low.shape[0], 1)  # (candidates · rows, n)
        candidates = cls.from_range(by_row, _ROW_LAYOUT, low.reshape(-1, 1), high.reshape(-1, 1))
        difference = candidates(tiled).sub_(tiled).square_().view(-1, rows, n)
        errors.append((difference * weights).sum(2))
    return torch.cat(errors)


def _by_row(config: OperandConfig) -> OperandConfig:
    return config.model_copy(update={"granularity": "channel", "groups": 1})
