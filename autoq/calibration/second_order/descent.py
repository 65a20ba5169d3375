"""Codes and scales of a rounded weight, improved in turns: no step makes the error of the layer's output larger.

Coordinate descent on the codes as in Behdin et al., "QuantEase: Optimization-based Quantization for Language Models",
2023, section 3; the scales by least squares.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from autoq.calibration.second_order.code_grid import CodeGrid

_BLOCK = 64
"""Columns for which the error is computed at once."""
_RIDGE = 1e-9
"""Share of the mean diagonal by which normal equations hold on to the scales that there are."""


@torch.no_grad()
def descend(weight: Tensor, codes: Tensor, grid: CodeGrid, gram: Tensor) -> Tensor:
    """Set each column to the codes of least error tr((W − Ŵ) G (W − Ŵ)ᵀ) given all others, one after the other.

    Args:
        weight: W, of shape (rows, channels).
        codes: whole numbers from 0, of the same shape.
        grid: the values that they stand for.
        gram: G, of shape (channels, channels).

    Returns:
        Codes like those given, float32.
    """
    # All that follows has shape (channels, rows), so that a column of the weight lies in one piece.
    wanted, found = weight.float().t().contiguous(), codes.float().t().contiguous()
    columns, diagonal = grid.by_column(len(weight), len(wanted)), gram.diagonal().tolist()
    error = grid.values(codes.float()).t().contiguous().sub_(wanted)
    new, target = torch.empty_like(error[0]), torch.empty_like(error[0])
    for start in range(0, len(wanted), _BLOCK):
        block = slice(start, start + _BLOCK)
        within = gram[block, block]
        slope = gram[block] @ error  # (columns, rows): half the derivative by each column's error
        for index, half in enumerate(slope):
            at = start + index
            if not diagonal[at] > 0:  # the channel is always zero: its weights make no difference
                continue
            torch.add(wanted[at], error[at], out=target).sub_(half, alpha=1 / diagonal[at])
            columns.snap_(at, target, found[at], new)
            new.sub_(wanted[at])
            slope[index + 1 :].addr_(within[index, index + 1 :], new - error[at])
            error[at] = new
    return found.t()


@torch.no_grad()
def refit_group_scales(weight: Tensor, codes: Tensor, grid: CodeGrid, gram: Tensor, groups: Tensor) -> Tensor:
    """Return the scales of groups of channels that together have least error tr((W − Ŵ) G (W − Ŵ)ᵀ) for given codes.

    For each row the normal equations A s = b with A_gh = q_g G q_hᵀ and b_g = q_g G wᵀ, where q_g are the codes of
    group g in steps, and zeros elsewhere. A group that changes nothing keeps its scale.

    Args:
        weight: W, of shape (rows, channels).
        codes: whole numbers from 0, of the same shape.
        grid: the values that they stand for now, with one scale for each group of a row, spread over its channels: of
            shape (rows, channels).
        gram: G, of shape (channels, channels).
        groups: number of the group of each channel, from 0, of shape (channels,).

    Returns:
        Positive, of the shape of ``grid.step``; what they were in rows where one of the best ones is not positive.
    """
    steps, count = grid.in_steps(codes.float()), int(groups.max()) + 1
    member = functional.one_hot(groups, count).to(steps)  # (channels, groups)
    rows = []
    for group in range(count):
        own = groups == group
        rows.append((steps[:, own] @ gram[own].float() * steps) @ member)  # (rows, groups)
    matrix = torch.stack(rows, 1).double()  # (rows, groups, groups)
    along = ((weight.float() @ gram.float() * steps) @ member).double()
    before = scales_of_groups(grid.step, groups).double()
    ridge = _RIDGE * matrix.diagonal(dim1=1, dim2=2).mean(1)[:, None] + torch.finfo(torch.float64).tiny
    matrix.diagonal(dim1=1, dim2=2).add_(ridge)
    best, _ = torch.linalg.solve_ex(matrix, along + ridge * before)
    is_usable = (torch.isfinite(best) & (best > torch.finfo(torch.float32).tiny)).all(1, keepdim=True)
    return torch.where(is_usable, best, before).float()[:, groups]


@torch.no_grad()
def refit_scale(weight: Tensor, codes: Tensor, grid: CodeGrid, gram: Tensor) -> Tensor:
    """Return the scales of least error tr((W − Ŵ) G (W − Ŵ)ᵀ) for given codes.

    Args:
        weight: W, of shape (rows, channels).
        codes: whole numbers from 0, of the same shape.
        grid: the values that they stand for now, with one scale a row, of shape (rows, 1), or one for all, (1, 1).
        gram: G, of shape (channels, channels).

    Returns:
        Positive, of the shape of ``grid.step``; what it was, where the least error is not at a positive scale.
    """
    steps = grid.in_steps(codes.float())
    products = steps @ gram.float()
    along = (products * weight.float()).sum(1, keepdim=True)
    squared = (products * steps).sum(1, keepdim=True)
    if grid.step.shape[0] == 1:
        along, squared = along.sum(0, keepdim=True), squared.sum(0, keepdim=True)
    best = along / squared
    is_usable = torch.isfinite(best) & (best > torch.finfo(torch.float32).tiny)
    return torch.where(is_usable, best, grid.step)


def scales_of_groups(spread: Tensor, groups: Tensor) -> Tensor:
    """Return the scales of groups, of shape (rows, groups), from scales that are spread over channels.

    Args:
        spread: of shape (rows, channels), equal within groups.
        groups: number of the group of each channel, from 0 and ascending, of shape (channels,).
    """
    first = torch.searchsorted(groups, torch.arange(int(groups.max()) + 1, device=groups.device))
    return spread[:, first]
