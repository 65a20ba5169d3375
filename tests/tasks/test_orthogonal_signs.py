from __future__ import annotations

import pytest
import torch

from autoq.tasks._orthogonal_signs import OrthogonalSigns


@pytest.mark.parametrize(("count", "elements"), [(4, 4), (8, 5), (4, 12), (3, 6), (1, 2)])
def test_signs_are_orthogonal_on_consecutive_elements(count: int, elements: int) -> None:
    rank = torch.arange(elements).expand(5, elements)
    signs = OrthogonalSigns(count, 0).draw(rank)
    assert signs.shape == (count, 5, elements)
    assert (signs.abs() == 1).all()
    if count & (count - 1):  # no power of two
        return
    for start in range(0, elements - elements % count or elements, count):
        part = signs[:, :, start : start + count]
        squares = torch.einsum("kni,knj->nij", part, part) / count
        assert torch.equal(squares, torch.eye(part.shape[-1]).expand_as(squares))


def test_the_ranks_decide_which_elements_are_orthogonal() -> None:
    rank = torch.tensor([[0, 4, 1, 5]])
    signs = OrthogonalSigns(4, 0).draw(rank)[:, 0]  # (K, elements)
    products = (signs.T @ signs / 4).abs()
    # 0 and 4 share a column of the Hadamard matrix, as 1 and 5 do.
    same = torch.tensor([[1.0, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 1], [0, 0, 1, 1]])
    assert torch.equal(products, same)
