"""Codes and scales of a rounded weight, improved in turns: no step makes the error of the layer's output larger.

Coordinate descent on the codes as in Behdin et al., "QuantEase: Optimization-based Quantization for Language Models",
2023, section 3; the scales by least squares.
"""

from __future__ import annotations

import torch
from torch import Tensor

_BLOCK = 64
"""Columns for which the error is computed at once."""


@torch.no_grad()
def descend(weight: Tensor, codes: Tensor, scale: Tensor, zero_point: Tensor, most: Tensor, gram: Tensor) -> Tensor:
    """Set each column to the codes of least error tr((W − Ŵ) G (W − Ŵ)ᵀ) given all others, one after the other.

    Args:
        weight: W, of shape (rows, channels).
        codes: whole numbers from 0, of the same shape.
        scale: step of the grid, of the same shape or (rows, 1).
        zero_point: code of zero, likewise.
        most: greatest code, of shape (rows, 1).
        gram: G, of shape (channels, channels).

    Returns:
        Codes like those given, float32.
    """
    # All that follows has shape (channels, rows), so that a column of the weight lies in one piece.
    wanted, found = weight.float().t().contiguous(), codes.float().t().contiguous()
    step, zero = (each.float().t().expand_as(wanted).contiguous() for each in (scale, zero_point))
    error = (found - zero).mul_(step).sub_(wanted)
    greatest, diagonal = most.float().flatten(), gram.diagonal().tolist()
    for start in range(0, len(wanted), _BLOCK):
        block = slice(start, start + _BLOCK)
        within = gram[block, block]
        slope = gram[block] @ error  # (columns, rows): half the derivative by each column's error
        for index, half in enumerate(slope):
            at = start + index
            if not diagonal[at] > 0:  # the channel is always zero: its weights make no difference
                continue
            centre, size, code = zero[at], step[at], found[at]
            torch.add(wanted[at], error[at], out=code).sub_(half, alpha=1 / diagonal[at])
            code.div_(size).add_(centre).round_().clamp_(min=0)
            torch.minimum(code, greatest, out=code)
            new = (code - centre).mul_(size).sub_(wanted[at])
            slope[index + 1 :].addr_(within[index, index + 1 :], new - error[at])
            error[at] = new
    return found.t()


@torch.no_grad()
def refit_scale(weight: Tensor, codes: Tensor, scale: Tensor, zero_point: Tensor, gram: Tensor) -> Tensor:
    """Return the scales of least error tr((W − Ŵ) G (W − Ŵ)ᵀ) for given codes.

    Args:
        weight: W, of shape (rows, channels).
        codes: whole numbers from 0, of the same shape.
        scale: what they are now: one a row, of shape (rows, 1), or one for all, of shape (1, 1).
        zero_point: code of zero, of the shape of the scale.
        gram: G, of shape (channels, channels).

    Returns:
        Positive, of the shape of ``scale``; what it was, where the least error is not at a positive scale.
    """
    steps = codes.float() - zero_point
    products = steps @ gram.float()
    along = (products * weight.float()).sum(1, keepdim=True)
    squared = (products * steps).sum(1, keepdim=True)
    if scale.shape[0] == 1:
        along, squared = along.sum(0, keepdim=True), squared.sum(0, keepdim=True)
    best = along / squared
    is_usable = torch.isfinite(best) & (best > torch.finfo(torch.float32).tiny)
    return torch.where(is_usable, best, scale)
