"""Rounding of weights that minimises the squared error of a layer's output, one column after the other.

Frantar et al., "OPTQ: Accurate Quantization for Generative Pre-trained Transformers" (GPTQ), ICLR 2023, algorithm 1.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from autoq.calibration.second_order.code_grid import CodeGrid
from autoq.errors import CalibrationError

DAMPING = 0.01
"""Share of the mean diagonal of the Gram matrix that is added to it (section 3.3)."""
_BLOCK = 64
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

        Weights of channels that are always zero are rounded to nearest. A matrix that stays singular to working
        precision is damped ten times more, until it is not.

        Args:
            gram: XᵀX over all tokens, of shape (channels, channels).
            damping: λ as a share of the mean diagonal.

        Raises:
            CalibrationError: the matrix has NaN or infinite entries.

        >>> factor = InverseFactor.of_gram(torch.diag(torch.tensor([1.0, 4.0])), damping=0.0)
        >>> factor.order.tolist(), factor.upper.diagonal().tolist()
        ([1, 0], [0.5, 1.0])
        """
        if not bool(torch.isfinite(gram).all()):
            raise CalibrationError("a Gram matrix has NaN or infinite entries: check the layer's inputs")
        exact = gram.to(torch.float64)
        order = torch.argsort(exact.diagonal(), descending=True, stable=True)
        exact = exact[order][:, order]
        mean = exact.diagonal().mean()
        mean = torch.where(mean > 0, mean, torch.ones_like(mean))  # no input at all: any rounding is as good
        is_dead = exact.diagonal() == 0
        identity = torch.eye(len(gram), dtype=torch.float64, device=gram.device)
        while True:
            damped = exact + torch.diag(damping * mean + is_dead * mean)
            # With H = RRᵀ for an upper triangular R, H⁻¹ = UᵀU for U = R⁻¹. R is Cholesky's factor from the other end.
            lower, failed = torch.linalg.cholesky_ex(damped.flip(0, 1))
            if not failed:
                upper = torch.linalg.solve_triangular(lower.flip(0, 1), identity, upper=True).float()
                if bool(torch.isfinite(upper).all()):
                    return cls(order, upper)
            damping = max(10 * damping, 1e-6)


@torch.no_grad()
def round_to_grid(weight: Tensor, grid: CodeGrid, factor: InverseFactor) -> Tensor:
    """Round weights to the grids of their rows, such that ‖X(W − Ŵ)ᵀ‖² becomes small.

    Columns are rounded to nearest one after the other; the weights not yet rounded take up as much of each column's
    error as they can. Rows do not depend on each other.

    Args:
        weight: W, of shape (rows, channels).
        grid: the values that codes stand for.
        factor: of the layer's inputs.

    Returns:
        Codes from 0, whole numbers as float32, of the shape of the weight.
    """
    order, upper = factor.order, factor.upper.to(weight.device)
    channels = len(order)
    # All that follows has shape (channels, rows), so that a column of the weight lies in one piece.
    wanted = weight.float()[:, order].t().contiguous()
    columns_of = grid.by_column(len(weight), channels, order)
    codes, errors = torch.empty_like(wanted), torch.empty_like(wanted)
    inverse_diagonal = upper.diagonal().reciprocal().tolist()
    for start in range(0, channels, _BLOCK):
        block = slice(start, min(start + _BLOCK, channels))
        here, within = wanted[block], upper[block, block]
        if start:
            here.addmm_(upper[:start, block].t(), errors[:start], alpha=-1)
        for index, (column, code, error) in enumerate(zip(here, codes[block], errors[block], strict=True)):
            columns_of.snap_(start + index, column, code, error)
            torch.sub(column, error, out=error).mul_(inverse_diagonal[start + index])
            here[index + 1 :].addr_(within[index, index + 1 :], error, alpha=-1)
    return torch.empty_like(codes.t()).index_copy_(1, order, codes.t())
