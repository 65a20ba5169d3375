"""Matrices are orthogonal, the same for the same seed, and as spread out as they should be."""

from __future__ import annotations

import pytest
import torch

from autoq.calibration.transforms.rotation.matrices import hadamard_matrix, head_matrix, stream_matrix

WIDTHS = [1, 2, 3, 4, 8, 12, 20, 24, 28, 32, 33, 48, 64, 80, 96]


def identity(width: int) -> torch.Tensor:
    return torch.eye(width, dtype=torch.float64)


@pytest.mark.parametrize("width", WIDTHS)
def test_head_matrices_are_orthogonal(width: int) -> None:
    matrix = head_matrix(width, 3)
    torch.testing.assert_close(matrix @ matrix.T, identity(width), rtol=0, atol=1e-13)


@pytest.mark.parametrize("width", WIDTHS[1:])
def test_stream_matrices_are_orthogonal_and_keep_the_mean(width: int) -> None:
    matrix = stream_matrix(width, 3)
    torch.testing.assert_close(matrix @ matrix.T, identity(width), rtol=0, atol=1e-13)
    x = torch.randn(5, width, dtype=torch.float64)
    torch.testing.assert_close((x @ matrix.T).mean(-1), x.mean(-1), rtol=0, atol=1e-13)
    normal = torch.nn.functional.layer_norm
    torch.testing.assert_close(normal(x @ matrix.T, (width,)), normal(x, (width,)) @ matrix.T, rtol=0, atol=1e-12)


@pytest.mark.parametrize("width", [1, 2, 4, 8, 12, 16, 20, 24, 40, 44, 48, 64, 72, 80, 96, 128])
def test_hadamard_matrices_of_signs(width: int) -> None:
    matrix = hadamard_matrix(width)
    assert matrix is not None
    assert torch.equal(matrix.abs(), torch.ones_like(matrix))
    assert torch.equal(matrix @ matrix.T, width * identity(width))


@pytest.mark.parametrize("width", [3, 5, 6, 18, 28, 36, 52])
def test_widths_without_a_known_hadamard_matrix(width: int) -> None:
    assert hadamard_matrix(width) is None
    assert head_matrix(width, 0).abs().min() < 0.5 / width**0.5


@pytest.mark.parametrize("make", [head_matrix, stream_matrix])
def test_a_matrix_is_a_function_of_width_and_seed(make: type) -> None:
    before = torch.random.get_rng_state()
    for width in (12, 14):
        assert torch.equal(make(width, 5), make(width, 5))
        assert not torch.allclose(make(width, 5), make(width, 6))
    assert torch.equal(torch.random.get_rng_state(), before)


def test_the_first_numbers_stay() -> None:
    """Recipes hold seeds: other matrices would make other models of them."""
    assert (2 * head_matrix(4, 0))[0].tolist() == [1, -1, 1, 1]
    expected = torch.tensor([0.6293607502534, -0.3319899146261, 0.7026291643727], dtype=torch.float64)
    torch.testing.assert_close(stream_matrix(3, 0)[0], expected, rtol=0, atol=1e-12)
