"""Moving averages of the batches' quantiles."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, Self

from torch import Tensor

from autoq.calibration.observers._base import Bounds
from autoq.calibration.observers.ema import EmaObserver
from autoq.calibration.observers.quantiles import quantile_bounds

if TYPE_CHECKING:
    from autoq.calibration.settings import CalibrationSettings


class PercentileObserver(EmaObserver):
    """Exponential moving average of the batches' quantiles, which are exact however large a batch is.

    >>> import torch
    >>> observer = PercentileObserver(kept_axes=(), percentile=75.0)
    >>> observer.update(torch.arange(5.0))
    >>> observer.bounds()
    (tensor([1.]), tensor([3.]))

    Attributes:
        percentile: percent of a batch's values below the upper bound, and above the lower one.
    """

    name: ClassVar[str] = "percentile"

    def __init__(self, kept_axes: Sequence[int], percentile: float = 99.99, averaging_constant: float = 0.01) -> None:
        """Start with nothing observed."""
        super().__init__(kept_axes, averaging_constant)
        self.percentile = percentile

    @classmethod
    def from_settings(cls, kept_axes: Sequence[int], settings: CalibrationSettings) -> Self:
        """Make an observer with the settings' ``percentile`` and ``averaging_constant``."""
        return cls(kept_axes, settings.percentile, settings.averaging_constant)

    @classmethod
    def kept_percent(cls, settings: CalibrationSettings) -> float:
        """Return the settings' ``percentile``."""
        return settings.percentile

    def _bounds_of_batch(self, x: Tensor) -> Bounds:
        kept = sorted(axis % x.ndim for axis in self.kept_axes)
        others = [axis for axis in range(x.ndim) if axis not in kept]
        rows = x.permute(*kept, *others).reshape(math.prod(x.shape[axis] for axis in kept), -1)  # (kept entries, n)
        shape = [size if axis in kept else 1 for axis, size in enumerate(x.shape)]
        lower, upper = quantile_bounds(rows, (self.percentile,))
        return lower.view(shape), upper.view(shape)
