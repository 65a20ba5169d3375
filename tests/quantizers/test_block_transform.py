"""Hadamard matrices with fixed signs, along any axis, against products with the dense matrix."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import hadamard

from autoq.quantizers._block_transform import block_rotation, rotate_blocks


@pytest.mark.parametrize("size", [2**k for k in range(11)])
def test_the_matrix_is_a_hadamard_matrix_behind_signs(size: int) -> None:
    matrix = block_rotation(size).double().numpy()
    signs = matrix[:, :1]
    assert (signs * matrix == hadamard(size)).all()
    assert (matrix.T @ matrix == size * np.eye(size)).all()


@pytest.mark.parametrize("power", range(5))
def test_a_common_mean_is_spread_evenly(power: int) -> None:
    size = 4**power
    spread = rotate_blocks(torch.ones(size), block_rotation(size), size, -1)
    torch.testing.assert_close(spread.abs(), torch.ones(size))
    twice = rotate_blocks(torch.ones(2 * size), block_rotation(2 * size), 2 * size, -1)
    assert twice.abs().max() < 1.415


@settings(deadline=None)
@given(
    power=st.integers(0, 9),
    blocks=st.integers(1, 3),
    axis=st.integers(-3, -1),
    inverse=st.booleans(),
    larger=st.booleans(),
)
def test_is_the_product_with_the_dense_matrix(power: int, blocks: int, axis: int, inverse: bool, larger: bool) -> None:
    block = 2**power
    shape = [2, 3, 2]
    shape[axis] = blocks * block
    x = torch.randn(shape, generator=torch.Generator().manual_seed(power)).double()
    matrix = block_rotation(block).double().numpy() / np.sqrt(block)
    dense = np.kron(np.eye(blocks), matrix.T if inverse else matrix)
    expected = np.moveaxis(np.moveaxis(x.numpy(), axis, -1) @ dense, -1, axis)
    found = rotate_blocks(x, block_rotation(2 * block if larger else block), block, axis, inverse=inverse)
    assert found.is_contiguous()
    np.testing.assert_allclose(found.numpy(), expected, rtol=0, atol=1e-12)
