"""The observed range, shrunk to least squared error."""

from __future__ import annotations

from typing import ClassVar

from autoq.calibration.observers.min_max import MinMaxObserver


class OmseObserver(MinMaxObserver):
    """The observed range times the factor, of 90, that gives the least squared error.

    As in FQ-ViT (Lin et al., "FQ-ViT: Post-Training Quantization for Fully Quantized Vision Transformer", IJCAI 2022).

    >>> OmseObserver.shrinks[:3], len(OmseObserver.shrinks)
    ((1.0, 0.99, 0.98), 90)
    """

    name: ClassVar[str] = "omse"
    shrinks: ClassVar[tuple[float, ...]] = tuple(1 - step / 100 for step in range(90))
    chooses_by_error: ClassVar[bool] = True
