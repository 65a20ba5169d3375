"""Convolutions as products of vectors, against those of torch."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from autoq.calibration.convolutions import Convolution, TransposedConvolution

_AXES = st.tuples(st.integers(1, 4), st.integers(1, 4), st.integers(0, 3), st.integers(0, 3), st.integers(1, 3))
"""Size of the kernel, stride, padding, padding of the output, dilation."""


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@example(size=(1, 1), axes=((1, 1, 0, 0, 1), (2, 2, 1, 0, 2)))  # no input reaches an output
@given(size=st.tuples(st.integers(1, 5), st.integers(1, 5)), axes=st.tuples(_AXES, _AXES))
def test_a_transposed_convolution_is_a_product_of_vectors(
    size: tuple[int, int], axes: tuple[tuple[int, ...], tuple[int, ...]]
) -> None:
    """Its outputs, in another order; those that no input reaches are zero."""
    kernel, stride, padding, extra, dilation = (tuple(each) for each in zip(*axes, strict=True))
    extra = tuple(min(e, max(s, d) - 1) for e, s, d in zip(extra, stride, dilation, strict=True))
    least = (
        (n - 1) * s - 2 * p + d * (k - 1) + e + 1
        for n, s, p, d, k, e in zip(size, stride, padding, dilation, kernel, extra, strict=True)
    )
    if min(least) < 1:
        return
    x, weight = drawn(2, 3, *size), drawn(3, 2, *kernel, seed=1)
    expected = functional.conv_transpose2d(x, weight, None, stride, padding, extra, 1, dilation).flatten(2)
    geometry = TransposedConvolution(stride, padding, extra, dilation)
    found = (geometry.unfold(x, kernel) @ weight.transpose(0, 1).flatten(1).T).mT  # (2, 2, positions)
    missing = expected.shape[2] - found.shape[2]
    assert missing >= 0
    for image, wanted in zip(found, expected, strict=True):
        whole = torch.cat([image, image.new_zeros(2, missing)], 1)
        order, other = (each[0].argsort(stable=True) for each in (whole, wanted))
        torch.testing.assert_close(whole[0, order], wanted[0, other])
        torch.testing.assert_close(whole[1].sort().values, wanted[1].sort().values)


def test_parts_have_what_the_outputs_of_a_residue_see() -> None:
    """With a kernel as large as the stride each output sees one element, and no vector has zeros."""
    x = drawn(2, 3, 4, 5)
    parts = list(TransposedConvolution((2, 2), (0, 0), (0, 0), (1, 1)).parts(x, (2, 2)))
    assert [elements.tolist() for elements, _ in parts] == [[0, 4, 8], [1, 5, 9], [2, 6, 10], [3, 7, 11]]
    for _, vectors in parts:
        torch.testing.assert_close(vectors, x.flatten(2).mT)


def test_geometry_of_a_transposed_convolution() -> None:
    nothing = TransposedConvolution.of_arguments((None, None), (3, 3))
    assert nothing == TransposedConvolution((1, 1), (0, 0), (0, 0), (1, 1))
    full = TransposedConvolution.of_arguments((None, None, None, [2, 1], [1, 0], [1, 0], 4, [1, 2]), (3, 3))
    assert full == TransposedConvolution((2, 1), (1, 0), (1, 0), (1, 2), 4)


def test_geometry_of_a_convolution() -> None:
    nothing = Convolution.of_arguments((None, None), (3, 3))
    assert nothing == Convolution((1, 1), ((0, 0), (0, 0)), (1, 1))
    same = Convolution.of_arguments((None, None, None, [1], "same", [2, 1], 1), (3, 4))
    assert same == Convolution((1, 1), ((2, 2), (1, 2)), (2, 1))
    full = Convolution.of_arguments((None, None, None, [2, 1], [1, 0], 1, 4), (3, 3))
    assert full == Convolution((2, 1), ((1, 1), (0, 0)), (1, 1), 4)
    assert Convolution.of_arguments((None, None, None, [1], "valid"), (3,)).padding == ((0, 0),)


@pytest.mark.parametrize("padding", [((0, 0), (0, 0)), ((1, 0), (0, 2))])
def test_a_convolution_is_a_product_of_vectors(padding: tuple[tuple[int, int], ...]) -> None:
    x, weight = drawn(2, 3, 6, 5), drawn(4, 3, 2, 3, seed=1)
    geometry = Convolution((2, 1), padding, (1, 2))
    padded = functional.pad(x, [amount for pair in reversed(padding) for amount in pair])
    expected = functional.conv2d(padded, weight, None, (2, 1), 0, (1, 2)).flatten(2).mT
    (elements, vectors), *others = geometry.parts(x, (2, 3))
    assert (elements, others) == (None, [])
    assert vectors.shape[2] == math.prod(weight.shape[1:])
    torch.testing.assert_close(vectors @ weight.flatten(1).T, expected)
    assert geometry.reads_zeros == any(map(sum, padding))
