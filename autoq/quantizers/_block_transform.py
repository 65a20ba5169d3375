"""An orthogonal transform of consecutive blocks of channels: fixed signs, then a Hadamard matrix."""

from __future__ import annotations

import math

import torch
from torch import Tensor

_ONE_PRODUCT = 64
"""Up to here one product with the whole matrix is faster than two with its Kronecker factors."""


def block_rotation(size: int) -> Tensor:
    """Return √size times the orthogonal matrix of a block, D H: ±1, of shape (size, size).

    H is Sylvester's Hadamard matrix. D has the Golay-Rudin-Shapiro sequence on its diagonal (Rudin, "Some theorems on
    Fourier coefficients", 1959), (−1)^n with n the number of adjacent ones of an index in binary. H alone adds what the
    channels of a block have in common up in one number, √size times as large; the Hadamard transform of this sequence
    is flat, with all entries ±1 for powers of four, so that a common mean is spread evenly. The first rows and columns
    are the matrix of a smaller block.

    >>> block_rotation(4).tolist()
    [[1.0, 1.0, 1.0, 1.0], [1.0, -1.0, 1.0, -1.0], [1.0, 1.0, -1.0, -1.0], [-1.0, 1.0, 1.0, -1.0]]
    """
    index = torch.arange(size)
    exponents = [(each & (each >> 1)).bit_count() for each in range(size)]
    both = index.unsqueeze(1) & index  # (size, size)
    exponent = torch.tensor(exponents).unsqueeze(1)
    for bit in range(size.bit_length()):
        exponent = exponent + (both >> bit & 1)
    return 1.0 - 2.0 * (exponent % 2).float()


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
    y, matrix = x.reshape(-1, block, after), matrix.to(x.dtype)[:block, :block]
    if block <= _ONE_PRODUCT:
        return _multiply(y, matrix.t() if inverse else matrix).reshape(x.shape)
    signs = matrix[:, :1]  # (block, 1)
    # H of a block is the Kronecker product of those of its factors, outer and inner.
    outer = 1
    while 2 * outer**2 < block:
        outer *= 2
    inner, hadamard = block // outer, signs * matrix
    y = y if inverse else y * signs
    y = _multiply(y.reshape(-1, inner, after), hadamard[:inner, :inner])
    y = _multiply(y.reshape(-1, outer, inner * after), hadamard[:outer, :outer]).reshape(-1, block, after)
    return (y * signs if inverse else y).reshape(x.shape)


def _multiply(x: Tensor, matrix: Tensor) -> Tensor:
    """Multiply the middle axis of (n, size, after) by a matrix of ±1 of shape (size, size), normalised."""
    size = len(matrix)
    matrix = matrix * size**-0.5
    return x.reshape(-1, size) @ matrix if x.shape[2] == 1 else torch.matmul(matrix.t(), x)
