"""Moving averages of the batches' ranges."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, Self

import torch

from autoq.calibration.observers._base import BaseObserver, Bounds

if TYPE_CHECKING:
    from autoq.calibration.settings import CalibrationSettings


class EmaObserver(BaseObserver):
    """Exponential moving average of the batches' least and greatest values; the first batch is the start.

    bound ← bound + c · (bound of the batch − bound), as in FQ-ViT (Lin et al., IJCAI 2022).

    >>> observer = EmaObserver(kept_axes=(), averaging_constant=0.5)
    >>> for batch in (torch.tensor([[0.0, 2.0]]), torch.tensor([[-1.0, 1.0]])):
    ...     observer.update(batch)
    >>> observer.bounds()
    (tensor([[-0.5000]]), tensor([[1.5000]]))

    Attributes:
        averaging_constant: c.
    """

    name: ClassVar[str] = "ema"
    needs_each_granularity: ClassVar[bool] = True

    def __init__(self, kept_axes: Sequence[int], averaging_constant: float = 0.01) -> None:
        """Start with nothing observed."""
        super().__init__(kept_axes)
        self.averaging_constant = averaging_constant

    @classmethod
    def from_settings(cls, kept_axes: Sequence[int], settings: CalibrationSettings) -> Self:
        """Make an observer with the settings' ``averaging_constant``."""
        return cls(kept_axes, averaging_constant=settings.averaging_constant)

    def _merged(self, old: Bounds, batch: Bounds) -> Bounds:
        c = self.averaging_constant
        return torch.lerp(old[0], batch[0], c), torch.lerp(old[1], batch[1], c)
