"""What every head must fulfil. Inherit :class:`HeadContract` in a ``Test...`` class and give its cases."""

from __future__ import annotations

from typing import ClassVar

import pytest
import torch
from torch import Tensor

from autoq.tasks.heads import BaseHead, HeadProbes

Case = tuple[BaseHead, tuple[int, ...], tuple[int, ...]]
"""A head, the shape of one image's leaf, and of its positions."""


class HeadContract:
    """Checks for one kind of head."""

    cases: ClassVar[list[Case]]

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        metafunc.parametrize("case", self.cases, ids=str)

    def leaf(self, shape: tuple[int, ...], seed: int = 0) -> Tensor:
        return torch.rand(3, *shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) + 0.1

    def importance(self, positions: tuple[int, ...]) -> Tensor:
        return torch.rand(3, *positions, generator=torch.Generator().manual_seed(9), dtype=torch.float64)

    def test_the_divergence_is_a_weighted_mean_over_positions(self, case: Case) -> None:
        head, shape, positions = case
        reference, other, importance = self.leaf(shape), self.leaf(shape, 1), self.importance(positions)
        at = head.position_divergence(reference, other)
        assert at.shape == (3, *positions)
        assert (at > 0).all()
        assert head.position_divergence(reference, reference).abs().max() < 1e-14
        expected = head.weight * (importance * at).reshape(3, -1).mean(1)
        torch.testing.assert_close(head.divergence(reference, other, importance), expected)
        assert head.positions(reference) == torch.Size(positions).numel()

    def test_the_fisher_product_is_that_of_the_hessian(self, case: Case) -> None:
        head, shape, positions = case
        leaf, change = self.leaf(shape)[:1], self.leaf(shape, 1)[:1]
        for importance in (None, self.importance(positions)[:1]):

            def divergence(flat: Tensor, importance: Tensor | None = importance) -> Tensor:
                return head.divergence(leaf, flat.reshape(leaf.shape), importance).sum()

            hessian = torch.autograd.functional.hessian(divergence, leaf.flatten())
            found = head.fisher_product(leaf, change, importance=importance)
            torch.testing.assert_close(found.flatten(), hessian @ change.flatten())

    def test_probes_have_outer_products_with_the_mean_of_the_fisher_information(self, case: Case) -> None:
        head, shape, positions = case
        draws, importance = 600, self.importance(positions)[:1]
        leaf = self.leaf(shape)[:1].expand(draws, *shape)
        drawn = HeadProbes(head, 8, 0).draw(leaf, importance.expand(draws, *positions)).reshape(8 * draws, -1)
        found = drawn.T @ drawn / len(drawn)
        size = drawn.shape[1]
        unit = torch.eye(size, dtype=torch.float64).reshape(size, *shape)
        expected = head.fisher_product(
            leaf[:1].expand(size, *shape), unit, importance=importance.expand(size, *positions)
        ).reshape(size, size)
        torch.testing.assert_close(found, expected, rtol=0, atol=0.1 * float(expected.diagonal().max()))
