"""Numbers moved as values are tell where whole runs of channels went."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from autoq.calibration.transforms.rotation.numbering import NOTHING, find_order, find_source_axis, number_along

X = torch.zeros(2, 4, 6, 5)


@pytest.mark.parametrize(
    ("move", "order"),
    [
        (lambda n: n, (-1, 1)),
        (lambda n: n.transpose(1, 3), (-3, 1)),
        (lambda n: n.permute(3, 0, 1, 2), (-4, 1)),
        (lambda n: n.flatten(2), (-1, 6)),
        (lambda n: n.view(2, 2, 2, 6, 5).transpose(2, 3).flatten(3), (-1, 2)),
        (lambda n: n[:, 1:, ::2], (-1, 1)),
        (lambda n: n.roll(1, 2), (-1, 1)),
        (lambda n: torch.nn.functional.pad(n, (0, 0, 1, 2), value=NOTHING), (-1, 1)),
        (lambda n: n.roll(1, 3), None),
        (lambda n: n.flip(3), None),
        (lambda n: n[..., :4], None),
        (lambda n: n.transpose(2, 3).flatten(2), None),
        (lambda n: torch.nn.functional.pad(n, (0, 1), value=NOTHING), None),
        (lambda n: n[:, torch.arange(5) % 4, 0, torch.arange(5)], None),
        (lambda n: torch.full_like(n, NOTHING), None),
    ],
)
def test_order_after_moves(move: Callable[[Tensor], Tensor], order: tuple[int, int] | None) -> None:
    """The last but one takes channels in their order, but each of another token."""
    assert find_order(move(number_along(X, -1)), 5) == order


def test_numbers_are_laid_out_as_values() -> None:
    x = torch.zeros(2, 3, 4).transpose(1, 2)
    numbers = number_along(x, 1)
    assert numbers.stride() == x.stride()
    assert numbers[0].tolist() == [[0, 4, 8], [1, 5, 9], [2, 6, 10], [3, 7, 11]]


@pytest.mark.parametrize(
    ("shape", "move", "width", "axis"),
    [
        ((6,), lambda n: n.expand(4, 6), 6, 0),
        ((6,), lambda n: n.expand(4, 6), 3, 0),
        ((6, 4), lambda n: n.T, 6, 0),
        ((4, 6), lambda n: n, 6, 1),
        ((6, 6), lambda n: n.T, 6, 0),
        ((4, 7), lambda n: n[:, :6], 6, None),
        ((4, 6), lambda n: n.flip(1), 6, None),
        ((4, 6), lambda n: n[torch.arange(6) % 4, torch.arange(6)].expand(4, 6), 6, None),
    ],
)
def test_axis_of_a_constant(
    shape: tuple[int, ...], move: Callable[[Tensor], Tensor], width: int, axis: int | None
) -> None:
    numbers = torch.arange(torch.Size(shape).numel()).view(shape)
    assert find_source_axis(move(numbers), -1, width, torch.Size(shape)) == axis
