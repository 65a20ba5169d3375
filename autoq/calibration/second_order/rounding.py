"""Rounding of weights that minimises the squared error of a layer's output, one column after the other.

Frantar et al., "OPTQ: Accurate Quantization for Generative Pre-trained Transformers" (GPTQ), ICLR 2023, algorithm 1.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

DAMPING = 0.01
"""Share of the mean diagonal of the Gram matrix that is added to it (section 3.3)."""
_BLOCK = 128
"""Columns whose errors are passed on to the columns after them at once."""


@dataclass(frozen=True)
class InverseFactor:
    """What rounding has to know of a layer's inputs X, whatever the weights and their width.

    Attributes:
        order: channels, in the order in which their weights are rounded, of shape (channels,).
        upper: U, upper triangular with UᵀU = (XᵀX + λI)⁻¹, channels in that order, of shape (channels, channels).
    """

    order: Tensor
    upper: Tensor

    @classmethod
    def of_gram(cls, gram: Tensor, damping: float = DAMPING) -> InverseFactor:
        """Factor the damped inverse of a Gram matrix; channels with the largest inputs come first.

        Channels that are always zero keep their order of magnitude: their weights are rounded to nearest. A matrix that
        stays singular to working precision is damped ten times more, until it is not.

        Args:
            gram: XᵀX over all tokens, of shape (channels, channels).
            damping: λ as a share of the mean diagonal.

        >>> factor = InverseFactor.of_gram(torch.diag(torch.tensor([1.0, 4.0])), damping=0.0)
        >>> factor.order.tolist(), factor.upper.diagonal().tolist()
        ([1, 0], [0.5, 1.0])
        """
        exact = gram.to(torch.float64)
        diagonal = exact.diagonal()
        mean = diagonal.mean()
        if not mean > 0:  # no input at all: any rounding is as good
            exact, mean = torch.eye(len(gram), dtype=torch.float64, device=gram.device), torch.ones_like(mean)
            diagonal = exact.diagonal()
        order = torch.argsort(diagonal, descending=True, stable=True)
        exact = exact[order][:, order]
        is_dead = exact.diagonal() == 0
        identity = torch.eye(len(gram), dtype=torch.float64, device=gram.device)
        while True:
            damped = exact + torch.diag(damping * mean + torch.where(is_dead, mean, torch.zeros_like(mean)))
            lower, failed = torch.linalg.cholesky_ex(damped)
            if not failed:
                upper, failed = torch.linalg.cholesky_ex(torch.cholesky_solve(identity, lower), upper=True)
            if not failed and bool(torch.isfinite(upper).all()):
                return cls(order, upper.float())
            damping = max(10 * damping, 1e-6)


@torch.no_grad()
def round_to_grid(weight: Tensor, scale: Tensor, zero_point: Tensor, most: Tensor, factor: InverseFactor) -> Tensor:
    """Round weights to the grids of their rows, such that ‖X(W − Ŵ)ᵀ‖² becomes small.

    Columns are rounded to nearest one after the other; the weights not yet rounded take up as much of each column's
    error as they can. Rows do not depend on each other: those of several bit-widths are best rounded together.

    Args:
        weight: W, of shape (rows, channels).
        scale: step of the grid, of shape (rows, channels) or (rows, 1).
        zero_point: code of zero, of the same shape.
        most: greatest code, of shape (rows, 1).
        factor: of the layer's inputs.

    Returns:
        Codes from 0, whole numbers as float32, of the shape of the weight.
    """
    order, upper = factor.order, factor.upper.to(weight.device)
    left = weight.float()[:, order].clone()  # (rows, channels): what is still to be rounded, errors taken up
    scale = scale.float().expand_as(left)[:, order]
    zero_point = zero_point.float().expand_as(left)[:, order]
    codes = torch.empty_like(left)
    for start in range(0, left.shape[1], _BLOCK):
        block = slice(start, start + _BLOCK)
        part, errors = left[:, block], torch.empty_like(left[:, block])
        within = upper[block, block]
        for column in range(part.shape[1]):
            at = start + column
            wanted, step, zero = part[:, column], scale[:, at], zero_point[:, at]
            code = (wanted / step + zero).round_().clamp_(min=0).minimum(most[:, 0])
            codes[:, at] = code
            error = (wanted - (code - zero) * step) / within[column, column]
            errors[:, column] = error
            part[:, column + 1 :] -= torch.outer(error, within[column, column + 1 :])
        left[:, start + _BLOCK :] -= errors @ upper[block, start + _BLOCK :]
    return torch.empty_like(codes).index_copy_(1, order, codes)
