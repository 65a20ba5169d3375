"""The observed range."""

from __future__ import annotations

from typing import ClassVar

import torch

from autoq.calibration.observers._base import BaseObserver, Bounds


class MinMaxObserver(BaseObserver):
    """Least and greatest value of all batches, whatever their order.

    >>> observer = MinMaxObserver(kept_axes=())
    >>> for batch in (torch.tensor([[0.0, 2.0]]), torch.tensor([[-1.0, 1.0]])):
    ...     observer.update(batch)
    >>> observer.bounds()
    (tensor([[-1.]]), tensor([[2.]]))
    """

    name: ClassVar[str] = "min_max"

    def _merged(self, old: Bounds, batch: Bounds) -> Bounds:
        return torch.minimum(old[0], batch[0]), torch.maximum(old[1], batch[1])
