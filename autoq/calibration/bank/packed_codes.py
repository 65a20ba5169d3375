"""Codes of weights, packed to their width: what they take in memory and on disk."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

_AT_ONCE = 8
"""Codes that are packed together: of b bits each, they fill b bytes."""


def pack_codes(codes: Tensor, bits: int) -> Tensor:
    """Pack codes one after the other, most significant bit first; codes of 0 fill the last ones up to eight.

    Args:
        codes: whole numbers below 2^bits, of any shape.
        bits: width of a code, 1 to 8.

    Returns:
        uint8, of shape (⌈codes / 8⌉ · bits,), on the CPU.

    >>> pack_codes(torch.tensor([1, 2, 3, 0, 0, 0, 0, 1]), 2).tolist() == [0b01_10_11_00, 0b00_00_00_01]
    True
    """
    flat = codes.detach().cpu().flatten().to(torch.uint8).numpy()
    rows = np.zeros((-(-flat.size // _AT_ONCE), _AT_ONCE), np.uint8)
    rows.reshape(-1)[: flat.size] = flat
    words = np.zeros(len(rows), np.uint64)
    for column in rows.T:
        words = (words << np.uint64(bits)) | column
    octets = words.astype(">u8").view(np.uint8).reshape(-1, _AT_ONCE)
    return torch.from_numpy(octets[:, _AT_ONCE - bits :].reshape(-1).copy())


def count_bytes(bits: int, shape: Sequence[int]) -> int:
    """Count the bytes that codes of a shape take, packed."""
    return -(-math.prod(shape) // _AT_ONCE) * bits


def unpack_codes(packed: Tensor, bits: int, shape: Sequence[int]) -> Tensor:
    """Unpack what :func:`pack_codes` packed.

    Args:
        packed: uint8, one-dimensional.
        bits: width of a code.
        shape: of the codes.

    Returns:
        uint8, of that shape, on the CPU.

    Raises:
        ValueError: there are fewer or more bytes than the codes take.
    """
    count = math.prod(shape)
    if packed.dtype != torch.uint8 or packed.shape != (count_bytes(bits, shape),):
        raise ValueError(f"{packed.dtype} of shape {tuple(packed.shape)} does not hold {count} codes of {bits} bits")
    rows = packed.cpu().numpy().reshape(-1, bits)
    octets = np.zeros((len(rows), _AT_ONCE), np.uint8)
    octets[:, _AT_ONCE - bits :] = rows
    words = octets.view(">u8").astype(np.uint64).reshape(-1)
    columns = [(words >> np.uint64(bits * place)).astype(np.uint8) for place in reversed(range(_AT_ONCE))]
    codes = np.stack(columns, 1) & np.uint8(2**bits - 1)  # (rows, 8)
    return torch.from_numpy(codes.reshape(-1)[:count].reshape(tuple(shape)).copy())
