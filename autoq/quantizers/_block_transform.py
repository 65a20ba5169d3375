"""An orthogonal transform of consecutive blocks of channels: a Hadamard matrix whose rows have fixed signs."""

from __future__ import annotations

import math

import torch
from torch import Tensor

_ONE_PRODUCT = 64
"""Up to here one product with the whole matrix is faster than two with its Kronecker factors."""
_INNER = 16
"""Size of the inner factor above that: a power of four."""
_FOUR = ((1.0, 1.0, 1.0, 1.0), (1.0, -1.0, 1.0, -1.0), (1.0, 1.0, -1.0, -1.0), (-1.0, 1.0, 1.0, -1.0))


def block_rotation(size: int) -> Tensor:
    """Return √size times the orthogonal matrix of a block: ±1, of shape (size, size).

    It is Sylvester's Hadamard matrix with signs for its rows. Without them, all that the channels of a block have in
    common would be added up in one number, √size times as large. The signs (−1)^(x₀x₁ + x₂x₃ + …), of the bits x of a
    channel's number, are those of a bent function (Rothaus, "On 'bent' functions", 1976), whose Hadamard transform is
    flat for powers of four (and 0 or ±√2 between them): a common mean is spread evenly. The matrix of four is
    multiplied with itself (Kronecker product), and with Sylvester's of two where a factor of two is left; the first
    rows and columns are the matrix of a smaller block.

    >>> block_rotation(4).sum(0).tolist(), block_rotation(8).sum(0).tolist()
    ([2.0, 2.0, 2.0, -2.0], [4.0, 4.0, 4.0, -4.0, 0.0, 0.0, 0.0, 0.0])
    """
    four, matrix = torch.tensor(_FOUR), torch.ones(1, 1)
    while 4 * len(matrix) <= size:
        matrix = torch.kron(four, matrix)
    return matrix if len(matrix) == size else torch.kron(four[:2, :2].contiguous(), matrix)


def rotate_blocks(x: Tensor, matrix: Tensor, block: int, axis: int, *, inverse: bool = False) -> Tensor:
    """Multiply consecutive blocks along an axis by an orthogonal matrix, or by its inverse.

    Args:
        x: floating point.
        matrix: ``block_rotation`` of as many entries or more.
        block: entries of a block: a power of two that divides the axis.
        axis: counted from the last (−1).
        inverse: undo it.

    Returns:
        Contiguous, of the shape and type of ``x``.

    >>> rotate_blocks(torch.tensor([3.0, 1.0, 1.0, -1.0]), block_rotation(4), 4, -1).tolist()
    [3.0, 1.0, 1.0, 1.0]
    """
    after = math.prod(x.shape[x.ndim + axis + 1 :])
    matrix = matrix.t() if inverse else matrix
    inner = block if block <= _ONE_PRODUCT else _INNER
    y = _multiply(x, matrix[:inner, :inner], after)
    outer = block // inner
    if outer > 1:
        y = _multiply(y, matrix[:outer, :outer], inner * after)
    return y.reshape(x.shape)


def _multiply(x: Tensor, matrix: Tensor, after: int) -> Tensor:
    """Multiply by a matrix of ±1, normalised, along an axis that ``after`` elements of each block follow."""
    size = len(matrix)
    matrix = matrix.to(x.dtype) * size**-0.5
    if after == 1:
        return x.reshape(-1, size) @ matrix
    return torch.matmul(matrix.t().contiguous(), x.reshape(-1, size, after))
