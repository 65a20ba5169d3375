"""The quantile of least squared error, of three."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from autoq.calibration.observers._base import Bounds
from autoq.calibration.observers.min_max import MinMaxObserver
from autoq.calibration.observers.quantiles import quantile_bounds


class BestPercentileObserver(MinMaxObserver):
    """The best of three quantiles of the sampled values, by squared error.

    As in RepQ-ViT (Li et al., "RepQ-ViT: Scale Reparameterization for Post-Training Quantization of Vision
    Transformers", ICCV 2023).

    Attributes:
        percentiles: percent of the values below the upper bound, and above the lower one.
    """

    name: ClassVar[str] = "best_percentile"
    percentiles: ClassVar[tuple[float, ...]] = (99.9, 99.99, 99.999)
    chooses_by_error: ClassVar[bool] = True

    @classmethod
    def candidates(cls, rows: Tensor, lower: Tensor, upper: Tensor) -> Bounds:  # noqa: ARG003
        """Return the bounds at each percentile; see :meth:`BaseObserver.candidates`."""
        return quantile_bounds(rows, cls.percentiles)
