"""The range of least squared error for any scheme: candidates are quantizers that are tried on weighted values."""

from __future__ import annotations

import torch
from torch import Tensor

from autoq.calibration.solvers.tables import LinearTable
from autoq.quantizers import OperandLayout, quantizer_class
from autoq.recipe import OperandConfig

_COARSE = tuple(0.9**power for power in range(31))
"""From the whole range down to 4 % of it: heavy tails at two bits need that much."""
_FINE = (0.7, 0.8, 0.9, 0.95, 1.0, 1.05, 1.1)
_ROUNDS = 2
_ELEMENTS_AT_ONCE = 1 << 20


def search_range(
    values: Tensor, config: OperandConfig, lower: Tensor, upper: Tensor, bins: int
) -> tuple[Tensor, Tensor]:
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
        number, mass = torch.diff(table.sums[:2], dim=2)
        values, weights = (mass / number.clamp(min=1) * table.width + table.low).float(), number.float()

    def best(low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
        index = _squared_errors(values, weights, config, low, high).argmin(0, keepdim=True)
        return low.gather(0, index)[0], high.gather(0, index)[0]

    coarse = torch.tensor(_COARSE, device=lower.device).unsqueeze(1)
    fine = torch.tensor(_FINE, device=lower.device).unsqueeze(1)
    low, high = best(coarse * lower, coarse * upper)
    for _ in range(_ROUNDS):
        low, high = best(low.expand(len(_FINE), -1), (fine * high).minimum(upper.clamp(min=0)).maximum(low))
        low, high = best((fine * low).maximum(lower.clamp(max=0)).minimum(high), high.expand(len(_FINE), -1))
    return low, high


def _squared_errors(values: Tensor, weights: Tensor, config: OperandConfig, lower: Tensor, upper: Tensor) -> Tensor:
    """Σ weight · (value − fake_quantize(value))² for candidate ranges of shape (K, rows), in that shape."""
    rows, n = values.shape
    layout = OperandLayout(ndim=2, channel_axis=-2)
    by_row = config.model_copy(update={"granularity": "channel", "groups": 1})
    quantizer = quantizer_class(config.scheme)
    errors = []
    at_once = max(1, _ELEMENTS_AT_ONCE // (rows * n))
    for low, high in zip(torch.split(lower, at_once), torch.split(upper, at_once), strict=True):
        tiled = values.repeat(low.shape[0], 1)
        candidates = quantizer.from_range(by_row, layout, low.reshape(-1, 1), high.reshape(-1, 1))
        difference = candidates(tiled).sub_(tiled).square_().view(-1, rows, n)
        errors.append((difference * weights).sum(2))
    return torch.cat(errors)
