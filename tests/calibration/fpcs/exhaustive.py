"""Brute force over every combination that ``progressive_search`` could reach, to compare it with."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from autoq.calibration.fpcs.search import Grid, Loss, Pair


def exhaustive(loss: Loss, grid: Grid, steps: int, *, at_once: int = 1) -> tuple[Tensor, Tensor, Tensor]:
    """Return first parameter, second parameter and error of the best combination of each row, each (rows, 1).

    ``at_once`` combinations of the first grid are evaluated with all their descendants, which bounds memory.
    """
    best: tuple[Tensor, Tensor, Tensor] | None = None
    for first, second in reachable(grid, steps, at_once):
        found = (first, second, loss(first, second))
        if best is not None:
            found = (torch.cat([best[0], first], 1), torch.cat([best[1], second], 1), torch.cat([best[2], found[2]], 1))
        least = found[2].sort(dim=1, stable=True).indices[:, :1]  # the first of equals; NaN last
        best = (found[0].gather(1, least), found[1].gather(1, least), found[2].gather(1, least))
    assert best is not None
    return best


def reachable(grid: Grid, steps: int, at_once: int = 1) -> Iterator[Pair]:
    """Yield every combination that ``steps`` of search could reach, in pieces of shape (rows, any)."""
    pieces = zip(torch.split(grid.first, at_once, 1), torch.split(grid.second, at_once, 1), strict=True)
    for first, second in pieces:
        for level in range(steps):
            yield first, second
            if level + 1 < steps:
                first, second = grid.around(first, second, level)
