"""Codes of a quantized weight by the squared error of its layer's output."""

from __future__ import annotations

import torch
from torch import Tensor

from autoq.calibration.second_order.rounding import InverseFactor, round_to_grid
from autoq.quantizers import BaseQuantizer
from autoq.quantizers.granularity import expand_groups

_MOST_BITS = 8
"""Wider codes are rounded to nearest: there is nothing to gain."""


@torch.no_grad()
def round_weight(weight: Tensor, quantizer: BaseQuantizer, gram: Tensor, factor: InverseFactor) -> Tensor | None:
    """Round a weight with second-order information, on the grid that its quantizer has been given.

    A weight that is quantized in another basis is rounded there: W B, by the Gram matrix of X B.

    Each output channel keeps what it loses less by, tr((W − Ŵ) XᵀX (W − Ŵ)ᵀ) deciding between this rounding and
    rounding to nearest.

    Args:
        weight: of shape (outputs, inputs, ...), a linear layer's or a convolution's.
        quantizer: of the weight.
        gram: XᵀX of the layer's inputs, of shape (channels, channels), where channels are all elements of the weight
            that belong to one output.
        factor: of the same matrix; keeps what other bases make of both.

    Returns:
        Codes (uint8) of the weight's shape; None where rounding to nearest is as good for every channel, for schemes
        without a grid, and above 8 bits.
    """
    grid = _grid(quantizer, weight) if quantizer.config.bits <= _MOST_BITS else None
    if grid is None:
        return None
    rows = quantizer.to_basis(weight.float()).flatten(1)  # (outputs, channels), as all that follow
    gram, factor = _in_basis(quantizer, weight, gram, factor)
    most = torch.full((len(rows), 1), 2.0**quantizer.config.bits - 1, device=rows.device)
    codes = round_to_grid(rows, *grid, most, factor).to(torch.int32)
    nearest = quantizer.quantize(weight).flatten(1)
    value, nearest_value = ((each - grid[1]) * grid[0] for each in (codes, nearest))
    # The difference of the two errors, as (a − b) G (a + b)ᵀ = aGaᵀ − bGbᵀ for symmetric G.
    change = (((value - nearest_value) @ gram) * (value + nearest_value - 2 * rows)).sum(1, keepdim=True)
    is_better = change < 0  # (outputs, 1)
    if not bool(is_better.any()):
        return None
    return torch.where(is_better, codes, nearest).view(weight.shape).to(torch.uint8)


def _grid(quantizer: BaseQuantizer, weight: Tensor) -> tuple[Tensor, Tensor] | None:
    """Return scale and zero point, each of shape (outputs, channels) or (outputs, 1); None for other schemes."""
    grid = quantizer.code_grid()
    if grid is None:
        return None
    scale, zero_point = grid
    if scale[0].numel() == 1:
        return tuple(each.flatten(1).expand(len(weight), 1) for each in (scale, zero_point))  # type: ignore[return-value]
    axis = quantizer.layout.group_axis
    assert axis is not None  # noqa: S101 - only groups vary within an output channel
    spread = (expand_groups(each, weight.shape[axis], axis).expand_as(weight).flatten(1) for each in grid)
    return tuple(spread)  # type: ignore[return-value]


def _in_basis(
    quantizer: BaseQuantizer, weight: Tensor, gram: Tensor, factor: InverseFactor
) -> tuple[Tensor, InverseFactor]:
    """Return the Gram matrix of the inputs in the basis of a weight's codes, and its factor."""
    axis = quantizer.layout.summed_axis
    block = 1 if axis is None else quantizer.basis_block(quantizer.config, weight.shape[axis])
    if block == 1:
        return gram, factor
    if block not in factor.turned:
        for _ in range(2):  # G B, then (G B)ᵀ B = Bᵀ G B
            gram = quantizer.to_basis(gram.reshape(-1, *weight.shape[1:])).flatten(1).t()
        factor.turned[block] = gram, InverseFactor.of_gram(gram, factor.damping)
    return factor.turned[block]
